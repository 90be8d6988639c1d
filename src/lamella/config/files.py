"""Config files and where to find them: the project's own `conf/` first, then the one that comes with Lamella."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import yaml

GROUPS = ("data", "network", "loss", "optimizer", "scheduler", "device", "trainer", "visuals")
# Lamella's own configs are beside this package in a wheel, and at the top of the repository in an editable install.
SHIPPED = next(
    path for path in (Path(__file__).parents[1] / "conf", Path(__file__).parents[3] / "conf") if path.is_dir()
)
_project = ContextVar("project", default=Path("conf"))


def project_folder() -> Path:
    """Return the folder whose configs come before the shipped ones: `conf/` in the working directory."""
    return _project.get()


@contextmanager
def composing_from(folder: Path) -> Iterator[None]:
    """Compose from `folder` in place of the project's `conf/`, as a resumed search does from its copy."""
    token = _project.set(folder)
    try:
        yield
    finally:
        _project.reset(token)


def find_config(name: str) -> Path | None:
    """Return the file that a config such as "network/cnn" is read from, or None if there is none."""
    candidates = [folder / f"{name}.yaml" for folder in (project_folder(), SHIPPED)]
    return next((path for path in candidates if path.is_file()), None)


def read_raw(path: Path) -> object:
    """Return the content of a config file as it is written, before composition, or None if it cannot be read."""
    try:
        content: object = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    return content


def value_origin(key: str, overrides: Sequence[str], choices: Mapping[str, object], follow: bool = True) -> str | None:
    """Return the override or the file that a config key got its value from, or None if neither is known.

    overrides: the overrides of the command line. choices: the option that was chosen in each group. follow: where the
    value is an interpolation, return the origin of the key that it reads.
    """
    overriding = _override_of(key, overrides, choices)
    if overriding:
        return overriding
    for path, inner_key in _files_of(key, choices):
        is_set, value = _look_up(read_raw(path), inner_key)
        if is_set:
            read = _overridden_interpolation(value, overrides, choices)
            key_read = _interpolated_key(value) if follow else None
            if key_read:
                # Only one step is followed, because an interpolation may lead back to itself.
                read = value_origin(key_read, overrides, choices, follow=False)
            return read or _shown(path)
    group = key.partition(".")[0]
    option_file = find_config(f"{group}/{choices.get(group)}")
    return _shown(option_file) if option_file else None


def _override_of(key: str, overrides: Sequence[str], choices: Mapping[str, object]) -> str | None:
    """Return the last override that sets the key or a mapping that holds the key, for a message."""
    for override in reversed(overrides):
        name = override.lstrip("+~").partition("=")[0].partition("@")[0]
        if key == name or (key.startswith(f"{name}.") and name not in choices):
            return f"the command line: {override}"
    return None


def _files_of(key: str, choices: Mapping[str, object]) -> Iterator[tuple[Path, str]]:
    """Yield the config files that may set a key, the strongest first, each with the key as the file writes it."""
    group, _, rest = key.partition(".")
    # A file of a group writes the keys below the group's key; an experiment and the primary config write all of a key.
    names = [
        (f"experiment/{choices.get('experiment')}", key),
        (f"{group}/{choices.get(group)}", rest),
        (f"{group}/default", rest),
        ("config", key),
    ]
    for name, inner_key in names:
        path = find_config(name)
        if path:
            yield path, inner_key


def _look_up(node: object, key: str) -> tuple[bool, object]:
    """Return whether a config file sets the key, and its value.

    If a parent of the key is a plain value, or a list that has no such item, return True and the parent.
    """
    for number, part in enumerate(key.split(".") if key else []):
        if isinstance(node, dict) and part in node:
            node = node[part]
        elif isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            return number > 0 and not isinstance(node, dict), node
    return True, node


def _overridden_interpolation(value: object, overrides: Sequence[str], choices: Mapping[str, object]) -> str | None:
    """Return the override of a key that one of the values of a mapping interpolates, or None."""
    keys = filter(None, map(_interpolated_key, value.values() if isinstance(value, dict) else ()))
    return next(filter(None, (_override_of(key, overrides, choices) for key in keys)), None)


def _interpolated_key(value: object) -> str | None:
    """Return the key in a value that is `${key}` and nothing else, or None."""
    match = re.fullmatch(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else None
    return match[1] if match else None


def _shown(path: Path) -> str:
    """Return a path for a message, relative to the working directory if the file is below it."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
