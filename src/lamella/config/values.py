"""Functions that walk through the plain values of a config, check them, and split the text of overrides."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lamella.errors import RequestError

# A resolved config, or a part of it: text, numbers, true, false, null, and lists and mappings of these.
Config = Mapping[str, Any]
DEEPEST, LARGEST = 40, 1_000_000  # the most levels, and the most values, that a config may have


def walk(node: object, key: str = "") -> Iterator[tuple[str, object]]:
    """Yield every dotted key below a node with its value. A mapping or list comes before its items.

    key: the key of the node itself, which is put before the others.
    """
    children = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list | tuple) else ()
    for name, value in children:
        inner = f"{key}.{name}" if key else str(name)
        yield inner, value
        yield from walk(value, inner)


def check_values(config: object) -> None:
    """Raise RequestError if a config holds anything but text, numbers, true, false, null, lists and mappings.

    Numbers that are NaN, and lists and mappings that hold themselves, are refused too.
    """
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
        elif isinstance(node, float) and math.isnan(node):  # most constructors accept it without an error
            raise RequestError(f"{key} is not a number (nan)", key)
        elif node is not None and not isinstance(node, str | int | float):
            raise RequestError(f"{key} is {node!r}; a config holds text, numbers, true, false and null", key)


def key_of(override: str) -> str:
    """Return the key that an override sets."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def flow_text(value: object) -> str:
    """Return a value of a config as one line of YAML, with lists and mappings in brackets."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {flow_text(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(flow_text, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def source_keys(key: str, reads: Mapping[str, str]) -> Iterator[str]:
    """Yield the keys that a key reads, directly and through other keys. reads: as in the record of a run."""
    seen = {key}
    while (key := reads.get(key, key)) not in seen:
        seen.add(key)
        yield key


def override_values(overrides: Sequence[str]) -> dict[str, str]:
    """Return the values of overrides, as text, by their keys."""
    return dict(override.lstrip("+~").partition("=")[::2] for override in overrides)
