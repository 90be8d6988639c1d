"""Write the JSON Schema of every kind of config file."""

from typing import Any

from lamella.config.checks import ROOT_KEYS
from lamella.config.files import GROUPS, SHIPPED, read_raw
from lamella.editors.calls import Schema, value_of
from lamella.editors.group import Group
from lamella.editors.groups import group_schema
from lamella.editors.options import config_files, defaults_schema, key_comments, read_keys
from lamella.editors.targets import OwnModules

DIALECT = "https://json-schema.org/draft/2020-12/schema"
FILES = (*GROUPS, "experiment", "config")


def config_schemas(own: OwnModules) -> dict[str, Schema]:
    """Return the schemas of the files of each group, of experiments and of config.yaml, by those names."""
    files = config_files()
    read, comments = read_keys(files), key_comments(files)
    schemas = {}
    for name in GROUPS:
        # A reference that begins with a dot is relative, and may be of any group.
        keys = {key.lstrip(".").partition(".")[0] for key in read if key.startswith(".")}
        keys |= {key.split(".")[1] for key in read if key.startswith(f"{name}.")}
        schema = group_schema(Group(name, own.names, sorted(keys - {"_target_"})))
        _describe(schema, name, comments)
        schema.setdefault("properties", {})["defaults"] = defaults_schema(name)
        schemas[name] = _titled(schema, f"a config of the group {name}")
    root = _root(comments, read)
    for name, title in (("experiment", "an experiment"), ("config", "the primary config")):
        properties = {**root["properties"], "defaults": defaults_schema(name if name == "experiment" else "")}
        schemas[name] = _titled({**root, "properties": properties}, title)
    return schemas


def _titled(schema: Schema, title: str) -> Schema:
    return {"$schema": DIALECT, "title": f"Lamella: {title}", **schema}


def _describe(schema: Schema, group: str, comments: dict[str, str]) -> None:
    """Add the comments of config files to the keys of a group."""
    known: dict[str, Any] = schema.setdefault("properties", {})
    for name, comment in comments.items():
        if name.count(".") == 1 and name.startswith(f"{group}."):
            key = name.partition(".")[2]
            known[key] = {**known.get(key, {}), "description": comment}


def _root(comments: dict[str, str], read: frozenset[str]) -> Schema:
    """Return the schema of a file at the root of a config, which has all groups. read: what interpolations read."""
    # The groups are in the files beside this one.
    names = {"pattern": "^(?!defaults$)", "patternErrorMessage": "The list of defaults stands at the root of the file."}
    properties: dict[str, Any] = {group: {"$ref": f"{group}.json", "propertyNames": names} for group in GROUPS}
    properties |= {
        "name": value_of("string", pattern=r"^[^./][^/]*$"),
        "seed": value_of("integer", minimum=0),
        "monitor": value_of("string"),
    }
    for key in ("name", "seed", "monitor"):
        if key in comments:
            properties[key]["description"] = comments[key]
    shipped: Any = read_raw(SHIPPED / "sweep.yaml")
    sweep = {key: {"description": comments.get(f"sweep.{key}", "")} for key in shipped["sweep"]}
    for key, value in shipped["sweep"].items():
        if isinstance(value, bool):
            sweep[key] |= value_of("boolean")
    properties |= {
        "sweep": {"type": "object", "properties": sweep, "additionalProperties": False},
        "hydra": {},
        **{key: {} for key in sorted({name.partition(".")[0] for name in read} - {"", *ROOT_KEYS, "sweep", "hydra"})},
    }
    return {"type": "object", "properties": properties, "additionalProperties": False}
