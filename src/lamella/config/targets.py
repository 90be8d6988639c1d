"""What a config may build: each `_target_` is looked up, checked and called here.

No other file calls Hydra's instantiate.
"""

import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.utils import instantiate as hydra_instantiate

from lamella.config.moved_targets import present_name, with_present_names
from lamella.config.project import allowed_targets, inside_run_directory
from lamella.config.values import Config, walk
from lamella.errors import RequestError, first_line, nearest, own_frames
from lamella.signatures import check_call, named_dtype, parameters, returned_class

ALLOWED = ("torch.nn", "torch.optim", "torchvision", "torchmetrics", "pytorch_lightning", "lamella")
# Where layers and losses are defined. Modules from elsewhere, such as demos of Lightning, may load data and models.
LAYERS = ("torch.nn", "torchvision", "lamella")
# Builders in torchvision.models of networks that do not turn one tensor into one tensor, and whose backbone is loaded.
NO_NETWORKS = ("torchvision.models.detection", "torchvision.models.optical_flow")
UNPICKLED = ("torchvision.datasets.lsun",)  # datasets that unpickle a file without a check of what it is
# The keys with an underscore that Hydra gives a meaning and that a config may set.
UNDERSCORED = ("_target_", "_args_", "_partial_", "_convert_", "_recursive_")

Kinds = type | tuple[type, ...]


def resolve_target(path: object, key: str, kinds: Kinds, within: bool = False) -> Callable[..., Any]:
    """Return the class or function that a `_target_` names.

    A class has to be one of `kinds`, and a function has to return one. key: the key of the `_target_`, for messages.
    within: the node is an argument of another node, where the project's own code may return anything. Raises
    RequestError for what a config may not build, before it is imported, and for what does not exist.
    """
    own = allowed_targets()
    path = present_name(path) if isinstance(path, str) else path
    if not isinstance(path, str) or not re.fullmatch(r"[\w.]+", path) or not _is_below(path, (*ALLOWED, *own)):
        raise RequestError(_foreign_target(path, key, own), key)
    found = _import(path, key, own)
    # An allowed module may lead on to others, such as torch.nn.modules.module.sys.
    home, roots = str(getattr(found, "__module__", "")), list(map(_root, own))
    if not callable(found) or not _is_below(home, (*ALLOWED, *roots)):
        raise RequestError(f"{key} is {path!r}, which leads out of what a config may build", key)
    if not (_is_below(home, roots) and (within or not isinstance(found, type))):
        _check_kind(found, path, key, kinds)
    return found


def _foreign_target(path: object, key: str, own: Collection[str]) -> str:
    """Return the message for a target outside of the allowed packages."""
    root = str(path).partition(".")[0]
    name = root if Path(root).is_dir() or Path(f"{root}.py").is_file() else "PACKAGE"
    way = f'to allow code of your own, write into pyproject.toml:\n  [tool.lamella]\n  targets = ["{name}"]'
    if inside_run_directory():
        way = "what pyproject.toml allows does not count inside of a run directory; go to that of your project"
    return f"{key} is {path!r}; a config may build from {', '.join((*ALLOWED, *own))};\n  {way}"


def _import(path: str, key: str, own: Collection[str]) -> object:
    """Import what an allowed path names. Raises RequestError with the nearest names if that fails."""
    if _is_below(path, own):
        make_own_importable()
    try:
        return _located(path)
    except Exception as error:
        parent, _, name = path.rpartition(".")
        try:
            known = vars(_located(parent)).items()
            hint = nearest(name, (one for one, value in known if one[0] != "_" and not isinstance(value, ModuleType)))
        except Exception:
            hint = first_line(error)
        raise RequestError(f"{key} is {path!r}, which cannot be imported; {hint}", key) from error


def make_own_importable() -> None:
    """Let Python import from the working directory: late, because a file there could hide a library."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)


def _located(path: str) -> object:
    """Return what a dotted path names: as in Hydra, an attribute comes before a module of the same name.

    torchvision.models.alexnet, for example, is a function and a module.
    """
    module, *names = path.split(".")
    found: object = import_module(module)
    for name in names:
        module = f"{module}.{name}"
        if not hasattr(found, name) and isinstance(found, ModuleType):
            import_module(module)
        found = getattr(found, name)
    return found


def _check_kind(found: Callable[..., object], path: str, key: str, kinds: Kinds) -> None:
    """Raise RequestError if a class is none of `kinds`, or a function does not build one of them."""
    wanted = " or ".join(kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
    if not wanted:
        raise RequestError(
            f"{key} is {path!r}; here a config builds nothing but what pyproject.toml names under [tool.lamella] "
            "targets",
            key,
        )
    if isinstance(found, type):
        if not issubclass(found, kinds):
            hint = "; take torchvision.transforms.v2.ToImage and then torchvision.transforms.v2.ConvertImageDtype"
            hint = hint if found.__name__ in ("ToTensor", "PILToTensor") else ""
            raise RequestError(f"{key} is {path!r}; it takes a subclass of {wanted}{hint}", key)
        home, group = found.__module__, key.partition(".")[0]
        if _is_below(home, UNPICKLED):
            raise RequestError(f"{key} is {path!r}, which unpickles files, and these may run anything", key)
        limited = wanted in ("Module", "LightningModule") or group == "data"
        if limited and _is_below(home, ALLOWED) and not _is_below(home, LAYERS):
            what = "data comes" if group == "data" else "a layer or a loss comes"
            source = f"{what} from {', '.join(LAYERS)}"
            if wanted == "LightningModule":
                source = "a task is lamella.Task, or a class of your own project"
            raise RequestError(f"{key} is {path!r}; {source}", key)
    elif not _builds(found, key, kinds):
        raise RequestError(f"{key} is {path!r}, a function; here it takes a class, a {wanted}", key)


def _root(package: str) -> str:
    """Return the package in which classes of `package` may be defined.

    A project's own class may come from any part of the same top-level package; a part of an allowed library, named in
    pyproject.toml, allows no other part.
    """
    root = package.partition(".")[0]
    return package if root in {name.partition(".")[0] for name in ALLOWED} else root


def _builds(function: Callable[..., object], key: str, kinds: Kinds) -> bool:
    """Return True if a library's function only builds one of `kinds`; other functions read files or use the internet.

    Such functions are torchvision's builders of models, for a network, and Lamella's own sources of data.
    """
    if _is_below(function.__module__, ["torchvision"]) and _is_below(key, ["network"]):
        from torchvision import models

        name = getattr(function, "__name__", "")
        if _is_below(function.__module__, NO_NETWORKS):
            raise RequestError(f"{key} is {function.__module__}.{name}; a network turns one tensor into one", key)
        names = {name, f"quantized_{name}"} & set(models.list_models())
        if all(models.get_model_builder(known) is not function for known in names):
            return False
    elif not _is_below(function.__module__, ["lamella.data"]):
        return False
    returned = returned_class(function)
    return returned is not None and issubclass(returned, kinds)


def _is_below(path: str, packages: Collection[str]) -> bool:
    """Return True if a dotted path is one of `packages` or is inside one of them."""
    return any(f"{path}.".startswith(f"{package}.") for package in packages)


def check_target(
    node: object,
    key: str,
    kinds: Kinds,
    supplied: Collection[str] = (),
    inner: tuple[type, ...] = (),
    within: bool = False,
) -> None:
    """Check a `_target_` node, and the nodes inside it, against the signatures of what they name; nothing is called.

    key: the key of the node, for messages. kinds: what the target may be. supplied: the arguments that the caller adds
    to the call. inner: what the targets of the nodes inside may be. within: the node is an argument of another node.
    Raises RequestError.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise RequestError(f"{key} is {node!r}; it takes a mapping with a `_target_`", key)
    _check_names_and_values(node, key, within)
    nested = {name for name, value in node.items() if isinstance(value, Mapping) and "_target_" in value}
    for name, value in node.items():
        _check_inside(value, f"{key}.{name}", inner)
    target = resolve_target(node["_target_"], f"{key}._target_", kinds, within)
    arguments = {name: value for name, value in node.items() if not name.startswith("_")}
    positional = _positional_arguments(node, key, target)
    plain = {name: value for name, value in arguments.items() if name not in nested}
    plain |= {name: value for name, value in positional.items() if not isinstance(value, Mapping)}
    _check_downloads(target, arguments, key)
    # A partial call gets its other arguments from whoever calls it.
    later = parameters(target) if node.get("_partial_") else ()
    check_call(target, plain, place=key, supplied={*supplied, *nested, *positional}, optional=later)


def _check_downloads(target: Callable[..., object], arguments: Config, key: str) -> None:
    """Raise RequestError where a builder of torchvision would download weights that the config does not ask for."""
    weights = parameters(target).get("weights_backbone")
    if weights and weights.default is not None and "weights_backbone" not in arguments:
        raise RequestError(
            f"{key}: {getattr(target, '__name__', target)} would download weights for its backbone; write "
            f"{key}.weights_backbone=null, or ={weights.default.name} to have them",
            key,
        )


def _check_names_and_values(node: Mapping[object, object], key: str, within: bool) -> None:
    """Raise RequestError if a `_target_` node has a key that is no argument, or a value that Hydra would resolve."""
    for name in node:
        if not isinstance(name, str):
            raise RequestError(f"{key}.{name}: an argument has a name, and not {name!r}", f"{key}.{name}")
        if name.startswith("_") and name not in UNDERSCORED:
            raise RequestError(f"{key}.{name}: there is no such key; {nearest(name, UNDERSCORED)}", f"{key}.{name}")
    for place, value in _scalars(node, key):
        if isinstance(value, str) and "${" in value:
            # Hydra would resolve it as it calls the target, and an interpolation may call anything.
            raise RequestError(f"{place} is {value!r}; what is called takes values, no interpolation", place)
    if node.get("_partial_") and not within:
        raise RequestError(f"{key}._partial_ is {node['_partial_']!r}; only an argument takes it", f"{key}._partial_")


def _positional_arguments(node: Mapping[str, object], key: str, target: Callable[..., object]) -> dict[str, object]:
    """Return the values of `_args_` by the names of the parameters that they fill. Raises RequestError."""
    positional = node.get("_args_", [])
    if not isinstance(positional, list | tuple):
        raise RequestError(f"{key}._args_ is {positional!r}; it takes a list", f"{key}._args_")
    names = [
        name
        for name, parameter in parameters(target).items()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    return dict(zip(names, positional, strict=False))


def _check_inside(value: object, key: str, inner: tuple[type, ...]) -> None:
    """Check the targets in a value of a node, also those in lists and mappings, because Hydra would call them all."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            check_target(value, key, inner, (), inner, True)
        else:
            for name, item in value.items():
                _check_inside(item, f"{key}.{name}", inner)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            _check_inside(item, f"{key}.{number}", inner)


def instantiate(node: Config, key: str, **supplied: object) -> Any:
    """Call what a checked node names, with the arguments in `supplied` too, and return the result.

    Raises RequestError with the key for whatever the call raises.
    """
    moved = _with_dtypes(with_present_names(node))
    assert isinstance(moved, dict)
    try:
        # `supplied` is kept out of Hydra's hands, which would resolve interpolations in it, as in the name of a file.
        return hydra_instantiate({**moved, "_partial_": True}, _convert_="all")(**supplied)
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ and not isinstance(cause, RequestError):
            cause = cause.__cause__
        if isinstance(cause, RequestError) and cause.key:
            raise cause from cause.__cause__
        message, frames = first_line(cause), own_frames(error)
        if unexpected := re.search(r"unexpected keyword argument '(\w+)'", message):
            name, title = unexpected[1], str(node.get("_target_")).rpartition(".")[2]
            place = f"{key}.{name}"
            raise RequestError(f"{place}: {title} has no such argument{frames}", place, unknown=True) from error
        if "'num_classes' expected value" in message:
            message = (
                f"{message.rstrip('.')}; pretrained weights have their own classes: leave num_classes out, and let a "
                "Linear follow,\n  or draw the last layer of a whole network anew, fc for example: "
                "network.weights={from: DEFAULT,skip: [fc.*]}"
            )
        # The key whose value the message quotes is to blame, if there is only one.
        quoted = [
            inner
            for inner, value in _scalars(node, key)
            if re.search(rf"(?<![\w.]){re.escape(str(value))}(?![\w.])", message)
        ]
        place = quoted[0] if len(quoted) == 1 else key
        raise RequestError(f"{place}: {message}{frames}", place) from error


def _with_dtypes(node: object) -> object:
    """Return a node with a dtype of torch in place of each text that names one, as `torch.float32`."""
    if isinstance(node, Mapping):
        return {name: _with_dtypes(value) for name, value in node.items()}
    if isinstance(node, list | tuple):
        return [_with_dtypes(value) for value in node]
    return node if (dtype := named_dtype(node)) is None else dtype


def _scalars(node: object, key: str) -> Iterator[tuple[str, object]]:
    """Yield the key and the value of everything in a node that is neither a list nor a mapping."""
    return ((place, value) for place, value in walk(node, key) if not isinstance(value, Mapping | list | tuple))
