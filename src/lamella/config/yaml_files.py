"""Load a config file, and refuse one that would take all memory when it is read."""

import io
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf

from lamella.config.files import read_config, shown_path
from lamella.config.values import LARGEST
from lamella.errors import RequestError


def load_yaml(path: Path) -> tuple[str, DictConfig]:
    """Return the text of a config file, and its content.

    Raises RequestError if the file is not UTF-8, has other than keys, or has aliases that make it too large. Raises
    YAMLError if it is no YAML.
    """
    text = read_config(path)
    if "*" in text and _expanded_size(yaml.compose(text), shown_path(path)) > LARGEST:
        raise RequestError(f"{shown_path(path)}: with its aliases it has more than {LARGEST:,} values")
    stream = io.StringIO(text)
    setattr(stream, "name", str(path))  # noqa: B010  errors of the parser name the file
    try:
        config = OmegaConf.load(stream)
    except OSError as error:  # OmegaConf's error for plain text or a number
        raise RequestError(f"{shown_path(path)} holds a plain value, where keys are expected") from error
    if not isinstance(config, DictConfig):
        raise RequestError(f"{shown_path(path)} holds a list, where keys are expected")
    return text, config


def _expanded_size(root: yaml.Node | None, path: str) -> int:
    """Return how many values a file has once every alias is replaced by what it names.

    Raises RequestError if a value contains itself.
    """
    sizes: dict[int, int] = {}
    open_nodes = set[int]()

    def size(node: yaml.Node) -> int:
        if id(node) in open_nodes:
            raise RequestError(f"{path}, line {node.start_mark.line + 1}: an alias names a value that contains it")
        if id(node) not in sizes:
            open_nodes.add(id(node))
            items = node.value if isinstance(node, yaml.CollectionNode) else []
            children = [child for item in items for child in (item if isinstance(item, tuple) else [item])]
            sizes[id(node)] = 1 + sum(map(size, children))
            open_nodes.discard(id(node))
        return sizes[id(node)]

    return size(root) if root else 0
