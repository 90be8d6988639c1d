"""Where the callbacks, loggers and profilers of a config may write: in the run directory and in allowed folders."""

import inspect
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from lamella.config.project import allowed_folders, allowed_targets
from lamella.config.values import Config
from lamella.errors import RequestError

# The parameters by which Lightning's callbacks, loggers and profilers take a folder to write to.
FOLDERS = ("save_dir", "dirpath", "dir", "exclude_batches_path")
# Addresses that libraries write to as they write to a path: s3://bucket, file:/home. From http they only read.
ADDRESS = re.compile(r"(?!https?://)[\w+.-]+(://|::)|file:")


def check_written_paths(node: object, key: str) -> None:
    """Raise RequestError for a path in a node that leads out of the run directory, unless pyproject.toml allows it.

    Such a path is absolute, begins with `~`, contains `..` or is an address, such as `s3://bucket`. node: the config of
    a callback, a logger or a profiler, or a part of it. Classes of the project's own are not checked. key: of the node.
    """
    for place, text in _texts(node, key):
        path = Path(text)
        outside = path.is_absolute() or text.startswith("~") or ".." in path.parts or ADDRESS.match(text)
        if outside and not _is_allowed(text):
            raise RequestError(
                f"{place} is {text!r}, which is not in the run directory; write a folder of the run, such as `logs`,\n"
                f"  or allow this place in pyproject.toml:\n  [tool.lamella]\n  write = [{text!r}]",
                place,
            )


def writing_into(directory: Path, node: Config, target: Callable[..., object]) -> Config:
    """Return a node whose relative folders are in `directory`, except those that pyproject.toml allows.

    directory: of the run. target: what the node names; its own default folders are moved into `directory` too.
    """
    if _is_own(node):
        return node
    parameters = inspect.signature(target).parameters
    defaults = {name: parameters[name].default for name in FOLDERS if name in parameters}
    folders = {name: node.get(name, default) for name, default in defaults.items()}
    return {
        **node,
        **{
            name: str(directory / folder)
            for name, folder in folders.items()
            if isinstance(folder, str) and not (name in node and _is_allowed(folder))
        },
    }


def _texts(node: object, key: str) -> Iterator[tuple[str, str]]:
    """Yield the key and the value of each text in a node, without those that classes of the project's own get."""
    if isinstance(node, str):
        yield key, node
    elif isinstance(node, Mapping) and not _is_own(node):
        for name, value in node.items():
            yield from _texts(value, f"{key}.{name}")
    elif isinstance(node, list | tuple):
        for number, value in enumerate(node):
            yield from _texts(value, f"{key}.{number}")


def _is_own(node: Config) -> bool:
    """Return True if a node builds a class of the project's own, which may do anything."""
    return any(f"{node.get('_target_')}.".startswith(f"{package}.") for package in allowed_targets())


def _is_allowed(text: str) -> bool:
    """Return True if a path is one of the folders that pyproject.toml allows, or is in one of them."""
    folders = [_resolved(folder).rstrip("/") for folder in allowed_folders()]
    return any(f"{_resolved(text)}/".startswith(f"{folder}/") for folder in folders)


def _resolved(text: str) -> str:
    """Return an absolute path without links. An address stays as it is."""
    return text if ADDRESS.match(text) else os.path.realpath(os.path.expanduser(text))
