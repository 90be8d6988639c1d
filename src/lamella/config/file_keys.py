"""The keys that a config file writes, each with its value and its line."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import yaml

from lamella.config.files import check_aliases, read_config
from lamella.errors import RequestError

Written = dict[str, tuple[object, int]]  # by dotted key, a value and the number of its line
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # PyYAML may be built without its parser in C


def keys_in_file(path: Path) -> Written:
    """Return every dotted key that a config file writes, with its value as it is written and its line.

    The values are text, and lists and mappings of text. Returns an empty dict if the file cannot be read or is no YAML.
    """
    try:
        return _keys_in_file(path, path.stat().st_mtime_ns)
    except (OSError, RequestError, yaml.YAMLError, RecursionError):
        return {}


@lru_cache
def _keys_in_file(path: Path, changed: int) -> Written:
    """Return the keys of a file, which is read once. changed: when the file was written."""
    text = read_config(path)
    check_aliases(text, path)
    root = yaml.compose(text, LOADER)
    return {key: (value, line) for key, value, line in _walk(root, "")} if root else {}


def _walk(node: yaml.Node, place: str) -> Iterator[tuple[str, object, int]]:
    """Yield the key, the value and the line of everything in a node. place: what the keys begin with."""
    for name, value, line in _children(node):
        yield f"{place}{name}", _plain(value), line
        yield from _walk(value, f"{place}{name}.")


def _children(node: yaml.Node) -> list[tuple[str, yaml.Node, int]]:
    """Return the name, the node and the line of each item. What `<<` merges into a mapping comes before its own."""
    if isinstance(node, yaml.SequenceNode):
        return [(str(number), item, item.start_mark.line + 1) for number, item in enumerate(node.value)]
    children: list[tuple[str, yaml.Node, int]] = []
    for name, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if name.tag == "tag:yaml.org,2002:merge":
            merged = value.value if isinstance(value, yaml.SequenceNode) else [value]
            children[:0] = [child for other in reversed(merged) for child in _children(other)]
        else:
            children.append((name.value, value, name.start_mark.line + 1))
    return children


def _plain(node: yaml.Node) -> object:
    """Return the value of a node, in which numbers, true, false and null are text."""
    if isinstance(node, yaml.ScalarNode):
        return "null" if node.tag == "tag:yaml.org,2002:null" else str(node.value)
    items = {name: _plain(value) for name, value, _ in _children(node)}
    return list(items.values()) if isinstance(node, yaml.SequenceNode) else items
