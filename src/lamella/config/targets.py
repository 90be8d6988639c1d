"""What a `_target_` may name: looked up, checked and called here, the one place that calls Hydra's instantiate."""

import re
import sys
import typing
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from hydra.utils import instantiate as hydra_instantiate

from lamella.config.project import allowed_targets, inside_run_directory
from lamella.config.values import walk
from lamella.errors import RequestError, first_line, nearest
from lamella.signatures import check_call, parameters

ALLOWED = ("torch.nn", "torch.optim", "torchvision", "torchmetrics", "pytorch_lightning", "lamella")
# Where classes that a recorded config may name have been moved to.
MOVED = {
    "lamella.layers.": "lamella.network.",
    "lamella.pruning.": "lamella.sweeps.search.pruning.",
    "lamella.visuals.Samples": "lamella.visuals.SampleImages",
}

Kinds = type | tuple[type, ...]


def resolve_target(path: Any, key: str, kinds: Kinds, within: bool = False) -> Any:
    """The class that a `_target_` names, which has to be one of `kinds`, or the function, which has to return one.

    within: the node is an argument of another one, where the project's own code may give what it likes. Raises
    RequestError for what a config may not build, before it is imported, and for what is not there.
    """
    own = allowed_targets()
    allowed = (*ALLOWED, *own)
    path = _moved(path)
    if not isinstance(path, str) or not re.fullmatch(r"[\w.]+", path) or not _within(path, allowed):
        root = str(path).partition(".")[0]
        name = root if Path(root).is_dir() or Path(f"{root}.py").is_file() else "PACKAGE"
        way = f'to allow code of your own, write into pyproject.toml:\n  [tool.lamella]\n  targets = ["{name}"]'
        if inside_run_directory():
            way = "what pyproject.toml allows does not count inside of a run directory; go to that of your project"
        raise RequestError(f"{key} is {path!r}; a config may build from {', '.join(allowed)};\n  {way}", key)
    here = str(Path.cwd())
    if _within(path, own) and here not in sys.path:
        sys.path.insert(0, here)  # not before: what lies there could hide a library
    try:
        found = resolve_name(path)
    except Exception as error:
        parent, _, name = path.rpartition(".")
        try:
            hint = nearest(name, (known for known in dir(resolve_name(parent)) if not known.startswith("_")))
        except Exception:
            hint = first_line(error)
        raise RequestError(f"{key} is {path!r}, which cannot be imported; {hint}", key) from error
    # An allowed module may lead on to others: torch.nn.modules.module.sys, say.
    home, roots = str(getattr(found, "__module__", "")), list(map(_root, own))
    if not callable(found) or not _within(home, (*ALLOWED, *roots)):
        raise RequestError(f"{key} is {path!r}, which leads out of what a config may build", key)
    if _within(home, roots) and (within or not isinstance(found, type)):
        return found
    wanted = " or ".join(kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
    if not wanted:
        raise RequestError(
            f"{key} is {path!r}; here a config builds nothing but what pyproject.toml names under [tool.lamella] "
            "targets",
            key,
        )
    if not isinstance(found, type) and not _builds(found, key, kinds):
        raise RequestError(f"{key} is {path!r}, a function; here it takes a class, a {wanted}", key)
    if isinstance(found, type) and not issubclass(found, kinds):
        raise RequestError(f"{key} is {path!r}; it takes a subclass of {wanted}", key)
    return found


def _root(package: str) -> str:
    """Where a package's classes may be defined: anywhere in the project's own, of which it may be a part."""
    root = package.partition(".")[0]
    return package if root in {name.partition(".")[0] for name in ALLOWED} else root


def _builds(function: Any, key: str, kinds: Kinds) -> bool:
    """Whether a function of a library does nothing but build one of `kinds`; others read files or call the network."""
    if _within(function.__module__, ["torchvision"]) and _within(key, ["network"]):
        from torchvision import models

        name = getattr(function, "__name__", "")
        if name not in models.list_models() or models.get_model_builder(name) is not function:
            return False
    elif not _within(function.__module__, ["lamella.data"]):
        return False
    returned = typing.get_type_hints(function).get("return")
    return isinstance(returned, type) and issubclass(returned, kinds)


def _within(path: str, packages: Collection[str]) -> bool:
    return any(f"{path}.".startswith(f"{package}.") for package in packages)


def check_target(
    node: Any,
    key: str,
    kinds: Kinds,
    supplied: Collection[str] = (),
    inner: tuple[type, ...] = (),
    within: bool = False,
) -> None:
    """Check a `_target_` node and those inside it against what they name, without calling anything.

    supplied: the arguments that the caller adds. inner: the kinds of the nodes inside. Raises RequestError.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise RequestError(f"{key} is {node!r}; it takes a mapping with a `_target_`", key)
    unnamed = [name for name in node if not isinstance(name, str)]
    if unnamed:
        raise RequestError(f"{key}.{unnamed[0]}: an argument has a name, and not {unnamed[0]!r}", f"{key}.{unnamed[0]}")
    for place, value in _scalars(node, key):
        if isinstance(value, str) and "${" in value:
            # Hydra would resolve it as it calls the target, and an interpolation may call anything.
            raise RequestError(f"{place} is {value!r}; what is called takes values, no interpolation", place)
    if node.get("_partial_") and not within:
        raise RequestError(f"{key}._partial_ is {node['_partial_']!r}; it stands in arguments only", f"{key}._partial_")
    given = {name: value for name, value in node.items() if not name.startswith("_")}
    nested = {name: value for name, value in given.items() if isinstance(value, Mapping) and "_target_" in value}
    for name, value in nested.items():
        check_target(value, f"{key}.{name}", inner, (), inner, True)
    for name, value in node.items():
        if name not in nested:
            _check_inside(value, f"{key}.{name}", inner)
    plain = {name: value for name, value in given.items() if name not in nested}
    found = resolve_target(node["_target_"], f"{key}._target_", kinds, within)
    positional = node.get("_args_", [])
    if not isinstance(positional, list | tuple):
        raise RequestError(f"{key}._args_ is {positional!r}; it takes a list", f"{key}._args_")
    names = [
        name
        for name, parameter in parameters(found).items()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    bound = dict(zip(names, positional, strict=False))
    plain |= {name: value for name, value in bound.items() if not isinstance(value, Mapping)}
    check_call(found, plain, place=key, supplied={*supplied, *nested, *bound})


def _check_inside(value: Any, key: str, inner: tuple[type, ...]) -> None:
    """Check the targets in lists and mappings, `_args_` too: Hydra would call them all."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            check_target(value, key, inner, (), inner, True)
        else:
            for name, item in value.items():
                _check_inside(item, f"{key}.{name}", inner)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            _check_inside(item, f"{key}.{number}", inner)


def _moved(node: Any) -> Any:
    """Return a node, or the path in a `_target_`, with the present names of classes that have moved."""
    if isinstance(node, Mapping):
        return {
            name: _moved(value) if name == "_target_" or not isinstance(value, str) else value
            for name, value in node.items()
        }
    if isinstance(node, list | tuple):
        return [item if isinstance(item, str) else _moved(item) for item in node]
    for old, new in MOVED.items():
        if isinstance(node, str) and f"{node}.".startswith(f"{old.rstrip('.')}."):
            return new + node.removeprefix(old)
    return node


def instantiate(node: Mapping[str, Any], key: str, **supplied: Any) -> Any:
    """Call what a checked node names. What the call refuses is a RequestError that names the key."""
    try:
        # Hydra resolves what it is given, and `supplied` is no config: it may hold a file's name, say.
        return hydra_instantiate({**_moved(node), "_partial_": True}, _convert_="all")(**supplied)
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ and not isinstance(cause, RequestError):
            cause = cause.__cause__
        if isinstance(cause, RequestError):
            raise cause from None
        message = first_line(cause)
        # The value that the message quotes is to blame, where it is one key's alone.
        quoted = [
            inner
            for inner, value in _scalars(node, key)
            if re.search(rf"(?<![\w.]){re.escape(str(value))}(?![\w.])", message)
        ]
        raise RequestError(f"{key}: {message}", quoted[0] if len(quoted) == 1 else key) from error


def _scalars(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    return ((place, value) for place, value in walk(node, key) if not isinstance(value, Mapping | list | tuple))
