"""What a `_target_` may name: looked up, checked and called here, the one place that calls Hydra's instantiate."""

import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from hydra.utils import instantiate as hydra_instantiate

from lamella import arguments
from lamella.errors import RequestError, first_line, nearest

ALLOWED = ("torch.nn", "torch.optim", "torchvision", "torchmetrics", "pytorch_lightning", "lamella")
# Of the functions in there these build something; others read files, load archives or call the network.
FUNCTIONS = ("torchvision.models", "lamella.data")


def target(path: Any, key: str, base: type) -> Any:
    """The class or function that a `_target_` names; a class has to be a `base`.

    Raises RequestError for what a config may not build, before it is imported, and for what is not there.
    """
    own = _project_targets()
    allowed = (*ALLOWED, *own)
    if not isinstance(path, str) or not _within(path, allowed):
        root = str(path).partition(".")[0]
        name = root if Path(root).is_dir() or Path(f"{root}.py").is_file() else "PACKAGE"
        raise RequestError(
            f"{key} is {path!r}; a config may build from {', '.join(allowed)};\n"
            f'  to allow code of your own, write into pyproject.toml:\n  [tool.lamella]\n  targets = ["{name}"]',
            key,
        )
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
    home, roots = str(getattr(found, "__module__", "")), [name.partition(".")[0] for name in own]
    if not callable(found) or not _within(home, (*ALLOWED, *roots)):
        raise RequestError(f"{key} is {path!r}, which leads out of what a config may build", key)
    if not isinstance(found, type) and not _within(home, (*FUNCTIONS, *roots)):
        raise RequestError(f"{key} is {path!r}, a function; here it takes a class", key)
    if isinstance(found, type) and not issubclass(found, base):
        raise RequestError(f"{key} is {path!r}; it takes a subclass of {base.__name__}", key)
    return found


def _within(path: str, packages: Collection[str]) -> bool:
    return any(f"{path}.".startswith(f"{package}.") for package in packages)


def check(node: Any, key: str, base: type, supplied: Collection[str] = ()) -> None:
    """Check a `_target_` node and those inside it against what they name, without calling anything.

    supplied: the arguments that the caller adds. Raises RequestError.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise RequestError(f"{key} is {node!r}; it takes a mapping with a `_target_`", key)
    for inner, value in _scalars(node, key):
        if isinstance(value, str) and "${" in value:
            # Hydra would resolve it as it calls the target, and an interpolation may call anything.
            raise RequestError(f"{inner} is {value!r}; what is called takes values, no interpolation", inner)
    given = {name: value for name, value in node.items() if not name.startswith("_")}
    nested = {name: value for name, value in given.items() if isinstance(value, Mapping) and "_target_" in value}
    for name, value in nested.items():
        check(value, f"{key}.{name}", object)
    for name, value in node.items():
        if name not in nested:
            _check_inside(value, f"{key}.{name}")
    plain = {name: value for name, value in given.items() if name not in nested}
    found = target(node["_target_"], f"{key}._target_", base)
    positional = node.get("_args_", [])
    if not isinstance(positional, list | tuple):
        raise RequestError(f"{key}._args_ is {positional!r}; it takes a list", f"{key}._args_")
    names = [
        name
        for name, parameter in arguments.parameters(found).items()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    bound = dict(zip(names, positional, strict=False))
    plain |= {name: value for name, value in bound.items() if not isinstance(value, Mapping)}
    arguments.check(found, plain, place=key, supplied={*supplied, *nested, *bound})


def _check_inside(value: Any, key: str) -> None:
    """Check the targets in lists and mappings, `_args_` too: Hydra would call them all."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            check(value, key, object)
        else:
            for name, inner in value.items():
                _check_inside(inner, f"{key}.{name}")
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            _check_inside(inner, f"{key}.{number}")


def instantiate(node: Mapping[str, Any], key: str, **supplied: Any) -> Any:
    """Call what a checked node names. What the call refuses is a RequestError that names the key."""
    try:
        return hydra_instantiate(dict(node), _convert_="all", **supplied)
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
    children = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else None
    if children is None:
        yield key, node
        return
    for name, value in children:
        yield from _scalars(value, f"{key}.{name}")


def _project_targets() -> list[str]:
    """The packages that the project's own pyproject.toml lets a config build from."""
    file = Path("pyproject.toml")
    if not file.is_file():
        return []
    try:
        tool = tomllib.loads(file.read_text()).get("tool", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"pyproject.toml: {error}") from error
    names = tool.get("lamella", {}).get("targets", [])
    if not isinstance(names, list) or not all(
        isinstance(name, str) and re.fullmatch(r"[\w.]+", name) for name in names
    ):
        raise RequestError(f'pyproject.toml: [tool.lamella] targets is {names!r}; it takes names of packages, ["mine"]')
    return names
