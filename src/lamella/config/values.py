"""The plain values of a config: walked, checked, and read from the text of overrides."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from lamella.errors import RequestError

# A config, or a part of it, as plain values: text, numbers, true, false, null, and lists and mappings of these.
Config = Mapping[str, Any]
DEEPEST, LARGEST = 40, 1_000_000  # levels and values of a config


def walk(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every key below a node, with its value: mappings and lists first, then what is in them."""
    children = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list | tuple) else ()
    for name, value in children:
        inner = f"{key}.{name}" if key else str(name)
        yield inner, value
        yield from walk(value, inner)


def check_values(config: Any) -> None:
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


def override_values(overrides: Sequence[str]) -> dict[str, str]:
    """What overrides set, by key."""
    return dict(override.lstrip("+~").partition("=")[::2] for override in overrides)


def number_or_text(text: str) -> float | str:
    """A value of `settings` as a number where it is one, so that it sorts and plots as one."""
    try:
        return float(text)
    except ValueError:
        return text


def parse_value(text: str) -> Any:
    """A value as a config would have it: a number, true, false, null or text."""
    named = {"true": True, "false": False, "null": None}
    if text.lower() in named:
        return named[text.lower()]
    if text.startswith("["):
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError:
            return text
    return int(text) if re.fullmatch(r"[+-]?\d+", text) else number_or_text(text)
