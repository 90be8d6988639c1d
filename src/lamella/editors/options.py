"""Read the config files, those of the project and the shipped ones, for what their schemas need."""

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from lamella.config.files import GROUPS, LISTS, SHIPPED, check_aliases, project_folder, read_config
from lamella.config.hints import CHOSEN
from lamella.config.interpolations import READ
from lamella.editors.calls import LATER, Schema
from lamella.errors import RequestError

Files = dict[Path, tuple[str, yaml.Node | None]]  # the text and the content of each config file


def config_files() -> Files:
    """Return the text and the content of each config file that is UTF-8 and YAML, the shipped ones first."""
    files: Files = {}
    for folder in (SHIPPED, project_folder()):
        for path in sorted(folder.rglob("*.yaml")):
            try:
                text = read_config(path)
                check_aliases(text, path)
                files[path] = text, yaml.compose(text)
            except (OSError, RequestError, yaml.YAMLError):
                continue  # where an editor shows what is wrong
    return files


def read_keys(files: Files) -> frozenset[str]:
    """Return the dotted keys that interpolations in config files read."""
    return frozenset(re.sub(r"\[.*", "", key) for text, _ in files.values() for key in READ.findall(text))


def key_comments(files: Files) -> dict[str, str]:
    """Return the comments on the keys of config files, by the dotted keys, such as `trainer.ema`."""
    found: dict[str, str] = {}
    for path, (text, root) in files.items():
        folder = path.parent.name
        place = folder if folder in GROUPS else ""
        if isinstance(root, yaml.MappingNode):
            for key, comment in _comments(root, text.splitlines(), place):
                found.setdefault(key, comment)
    return found


def _comments(node: yaml.MappingNode, lines: list[str], place: str) -> Iterator[tuple[str, str]]:
    for key, value in node.value:
        name = f"{place}.{key.value}".lstrip(".")
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            yield from _comments(value, lines, name)
        rest = lines[value.end_mark.line][value.end_mark.column :] if value.end_mark.line == key.end_mark.line else ""
        above = [lines[key.start_mark.line - 1]] if key is not node.value[0][0] and key.start_mark.line else []
        if match := re.match(r"\s+#\s*(.+)", rest) or re.match(r"\s*#\s*(.+)", "".join(above)):
            yield name, match[1]


def group_names() -> list[str]:
    """Return the folders of config files: Lamella's groups, and those of the project."""
    folders = [path.name for path in project_folder().glob("*") if path.is_dir()]
    return list(dict.fromkeys([*CHOSEN, *sorted(folders)]))


def _files(group: str) -> list[str]:
    found = {path.stem for folder in (project_folder(), SHIPPED) for path in (folder / group).glob("*.yaml")}
    return sorted(found)


def option_schema(group: str) -> Schema:
    """Return the schema of the choice of an option, or of a list of options."""
    one: Schema = {"anyOf": [{"enum": [*_files(group), None]}, {"type": "string", "pattern": LATER}]}
    if group not in LISTS:
        return one
    return {"if": {"type": "array"}, "then": {"items": one}, "else": one}


def defaults_schema(group: str) -> Schema:
    """Return the schema of the list `defaults` in a file of a group; "" stands for config.yaml."""
    groups = group_names()
    paths = [f"{slash}{name}/{option}" for name in groups for slash in ("/", "") for option in _files(name)]
    return {
        "description": "What the file is composed from, in this order; later files win.",
        "type": "array",
        "items": {
            "type": ["string", "object"],
            "if": {"type": "string"},
            "then": {
                "anyOf": [
                    {"enum": ["_self_", *_files(group)]},
                    {"enum": paths},
                    {"pattern": rf"{LATER}|^[/\w]*hydra/|@"},
                ]
            },
            "properties": {
                f"override /{name}" if group == "experiment" else name: option_schema(name) for name in CHOSEN
            },
            "patternProperties": {
                **{rf"^(optional )?(override )?/?{name}(@.*)?$": option_schema(name) for name in groups},
                r"^(optional )?(override )?/?hydra/": True,
            },
            "additionalProperties": False,
        },
    }
