"""Where the values of a composed config come from: which override of the command line, or which file."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.types import RunMode

from lamella.config.files import GROUPS, read_raw, shown_path
from lamella.config.values import key_of, walk

# A file of a composed config, and the key below which its content is placed; "" is the root.
ConfigFile = tuple[Path, str]


def composed_files(loader: ConfigLoader, overrides: Sequence[str]) -> list[ConfigFile]:
    """Return the files that a config with these overrides is composed from, the strongest first.

    Returns an empty list if the config cannot be composed, because origins are only shown in error messages.
    """
    try:
        defaults = loader.compute_defaults_list("config", list(overrides), RunMode.RUN).defaults
    except Exception:
        return []
    folders = [Path(source.path) for source in loader.get_sources() if source.scheme() == "file"]
    files = []
    for default in reversed(defaults):
        paths = [folder / f"{default.config_path}.yaml" for folder in folders]
        files += [(path, default.package or "") for path in paths if path.is_file()][:1]
    return files


def value_origin(
    key: str, overrides: Sequence[str], files: Callable[[], Sequence[ConfigFile]] = tuple, follow: bool = True
) -> str | None:
    """Return the overrides or the file that a config key got its value from, or None if neither is known.

    overrides: the overrides of the command line. files: returns those of the composed config, the strongest first; it
    is called if no override sets the key. follow: where the value is an interpolation, return the origin of the key
    that it reads.
    """
    setting = [text for text in overrides if _sets(text, key)][-1:]
    changing = [text for text in overrides if key_of(text).startswith(f"{key}.")]
    command_line = f"the command line: {' '.join(setting + changing)}"
    if setting:
        return command_line
    for path, package in files():
        inner_key = _inside(key, package)
        is_set, value = (False, None) if inner_key is None else _look_up(read_raw(path), inner_key)
        if not is_set:
            continue
        if changing:
            return f"{shown_path(path)} and {command_line}"
        read = _interpolated_key(value) if follow else None
        # Only one step is followed, because an interpolation may lead back to itself.
        origin = value_origin(read, overrides, files, follow=False) if read else _override_inside(value, overrides)
        return origin or shown_path(path)
    return command_line if changing else None


def _sets(override: str, key: str) -> bool:
    """Return True if an override sets the key, or a mapping that holds the key."""
    name = key_of(override)
    chooses_option = name in GROUPS and not override.partition("=")[2].startswith("{")
    return key == name or (key.startswith(f"{name}.") and not chooses_option)


def _inside(key: str, package: str) -> str | None:
    """Return a key as a file writes it whose content is placed below `package`, None if the file cannot set it."""
    if not package or key == package:
        return "" if key == package else key
    return key.removeprefix(f"{package}.") if key.startswith(f"{package}.") else None


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


def _override_inside(value: object, overrides: Sequence[str]) -> str | None:
    """Return the origin of the first value inside of `value` that is an interpolation of an overridden key."""
    keys: Iterator[str | None] = (_interpolated_key(inner) for _, inner in walk(value))
    origins = (value_origin(key, overrides, follow=False) for key in keys if key)
    return next(filter(None, origins), None)


def _interpolated_key(value: object) -> str | None:
    """Return the key in a value that is `${key}` and nothing else, or None."""
    match = re.fullmatch(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else None
    return match[1] if match else None
