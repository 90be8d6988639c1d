"""Where configs are: the project's own `conf/` first, then the one that comes with Lamella."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lamella.errors import RequestError

GROUPS = ("data", "network", "loss", "optimizer", "scheduler", "device", "trainer", "visuals")
PROJECT = Path("conf")
DEEPEST, LARGEST = 40, 1_000_000  # levels and values of a config
# Beside this module in a wheel, at the top of the repository in an editable install.
OWN = next(path for path in (Path(__file__).parent / "conf", Path(__file__).parents[2] / "conf") if path.is_dir())


def find(name: str) -> Path | None:
    """The file of a config such as "network/cnn", as it would be found."""
    candidates = [folder / f"{name}.yaml" for folder in (PROJECT, OWN)]
    return next((path for path in candidates if path.is_file()), None)


def raw(path: Path) -> Any:
    """A config file as it is written, before composition."""
    try:
        return yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None


def walk(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every key below a node, with its value: mappings and lists first, then what is in them."""
    children = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list | tuple) else ()
    for name, value in children:
        inner = f"{key}.{name}" if key else str(name)
        yield inner, value
        yield from walk(value, inner)


def check(config: Any) -> None:
    """Raise RequestError for what is not text, number, true, false or null, or lists and mappings of these."""
    rest, count = [("", config, 0)], 0
    while rest:
        key, node, depth = rest.pop()
        count += 1
        if depth > DEEPEST or count > LARGEST:
            raise RequestError(f"{key}: lists and mappings are nested too deep, or hold themselves", key)
        if isinstance(node, dict):
            wrong = [name for name in node if not isinstance(name, str | int)]
            if wrong:
                raise RequestError(f"{key}: a key is text or a whole number, and not {wrong[0]!r}", key)
        if isinstance(node, dict | list):
            children = node.items() if isinstance(node, dict) else enumerate(node)
            rest += [(f"{key}.{name}".lstrip("."), value, depth + 1) for name, value in children]
        elif isinstance(node, float) and math.isnan(node):  # most of what takes a number would not notice
            raise RequestError(f"{key} is not a number (nan)", key)
        elif node is not None and not isinstance(node, str | int | float):
            raise RequestError(f"{key} is {node!r}; a config holds text, numbers, true, false and null", key)


def origin(key: str, overrides: Sequence[str], choices: Mapping[str, Any], follow: bool = True) -> str | None:
    """Which override or file a config key got its value from.

    overrides: the command line's. choices: the option chosen in each group, None for none. follow: where the value
    is an interpolation, tell where what it reads comes from.
    """
    given = _override(key, overrides, choices)
    if given:
        return given
    group, _, rest = key.partition(".")
    option = choices.get(group)
    # A file of a group states the keys below the group's; an experiment and the primary config state all.
    candidates = [
        (f"experiment/{choices.get('experiment')}", key),
        (f"{group}/{option}", rest),
        (f"{group}/default", rest),
    ]
    for name, inside in [*candidates, ("config", key)]:
        path = find(name)
        found, value = _look_up(raw(path), inside) if path else (False, None)
        if path and found:
            interpolated = re.fullmatch(r"\$\{([\w.]+)\}", value) if follow and isinstance(value, str) else None
            # A mapping is to blame for what it reads, where that was given by hand.
            for inner in value.values() if isinstance(value, dict) else ():
                read = re.fullmatch(r"\$\{([\w.]+)\}", inner) if isinstance(inner, str) else None
                given = read and _override(read[1], overrides, choices)
                if given:
                    return given
            # One step: an interpolation may lead back to itself.
            return (interpolated and origin(interpolated[1], overrides, choices, follow=False)) or _shown(path)
    path = find(f"{group}/{option}")
    return _shown(path) if path else None


def _override(key: str, overrides: Sequence[str], choices: Mapping[str, Any]) -> str | None:
    for override in reversed(overrides):
        name = override.lstrip("+~").partition("=")[0].partition("@")[0]
        if key == name or (key.startswith(f"{name}.") and name not in choices):
            return f"the command line: {override}"
    return None


def _look_up(node: Any, key: str) -> tuple[bool, Any]:
    """Whether a file states a key, and the deepest value on the way to it."""
    for number, part in enumerate(key.split(".") if key else []):
        if isinstance(node, dict) and part in node:
            node = node[part]
        elif isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            return number > 0 and not isinstance(node, dict), node
    return True, node


def _shown(path: Path) -> str:
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
