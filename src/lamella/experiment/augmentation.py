"""Build the transforms that `data.augment` lists."""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from inspect import isfunction
from typing import Any

from lamella import signatures
from lamella.config.targets import check_target, instantiate, resolve_target
from lamella.data import (
    Augment,
    Color,
    Crop,
    Cutmix,
    Erase,
    External,
    Flip,
    Mixup,
    RandAugment,
    Rotate,
    TrivialAugment,
)
from lamella.data.augmentation import KEY, Listed, named
from lamella.errors import RequestError, nearest

NAMES: dict[str, Callable[..., Listed]] = {
    "crop": Crop,
    "flip": Flip,
    "rotate": Rotate,
    "erase": Erase,
    "color": Color,
    "randaugment": RandAugment,
    "trivialaugment": TrivialAugment,
    "mixup": Mixup,
    "cutmix": Cutmix,
}
EXAMPLE = f"{KEY}=[{{crop: 4}},flip]"
# Other names of these transforms.
FOREIGN = {"cutout": "erase", "rotation": "rotate", "jitter": "color", "colorjitter": "color", "hflip": "flip"}


def build_augment(node: object) -> Sequence[Listed] | Augment | None:
    """Return what the key `data.augment` describes, None where it is null. Raises RequestError.

    A mapping is the form of the configs of Lamella 0.1, which recorded runs hold.
    """
    if isinstance(node, Mapping):
        return _recorded(node)
    if node is not None and not isinstance(node, list):
        raise RequestError(f"{KEY} is {node!r}; it takes a list, as {EXAMPLE}", KEY)
    return None if node is None else [_listed(entry, f"{KEY}.{place}") for place, entry in enumerate(node)]


def _recorded(node: Mapping[str, Any]) -> Augment:
    if "_target_" not in node and (others := set(node) - set(signatures.parameters(Augment))):
        text = ", ".join(f"{{{name}: {value}}}" for name, value in node.items())
        raise RequestError(f"{KEY}.{min(others)}: {KEY} is a list; write {KEY}: [{text}]", f"{KEY}.{min(others)}")
    node = {"_target_": "lamella.data.Augment", **node}
    check_target(node, KEY, Augment)
    augment: Augment = instantiate(node, KEY)
    return augment


def _listed(entry: object, place: str) -> Listed:
    """Return the transform of an entry: a name, a name with its arguments, or a node with a `_target_`."""
    if isinstance(entry, Mapping) and "_target_" in entry:
        return _external(entry, place)
    name, argument = next(iter(entry.items())) if isinstance(entry, Mapping) and len(entry) == 1 else (entry, None)
    if not isinstance(name, str):
        raise RequestError(f"{place} is {entry!r}; it takes one transform, as flip or {{crop: 4}}", place)
    if name not in NAMES:
        raise RequestError(f"{place}: there is no transform {name!r}; {_hint(name)}", place)
    make, key = NAMES[name], f"{place}.{name}"
    known_names = list(signatures.parameters(make))
    if isinstance(argument, Mapping):
        values = dict(argument)
    else:
        given = argument if isinstance(argument, list) else [] if argument is None else [argument]
        if len(given) > len(known_names):
            takes = f"at most {', '.join(known_names)}" if known_names else "no arguments"
            raise RequestError(f"{key}: {name} takes {takes}, got {given}", key)
        values = dict(zip(known_names, given, strict=False))
    signatures.check_call(make, values, place=key, title=name)
    with named(key):
        return make(**values)


def _hint(name: str) -> str:
    """Return what to write instead of a name that no transform has."""
    from torchvision.transforms import v2

    if hasattr(v2, name):
        return f"write {{_target_: torchvision.transforms.v2.{name}}}"
    known = FOREIGN.get(name.lower())
    return f"did you mean {known}?" if known else nearest(name, NAMES)


def _external(entry: Mapping[str, Any], place: str) -> External:
    """Return a transform of torchvision or of the project's own.

    A class is called with the arguments of the entry. A function is the transform itself, and gets them beside the
    image.
    """
    from torchvision.transforms.v2 import Transform

    node = {name: value for name, value in entry.items() if name != "per"}
    target = resolve_target(node["_target_"], f"{place}._target_", Transform, within=True)
    if (name := target.__name__) in ("MixUp", "CutMix"):
        raise RequestError(f"{place}: {name} takes batches with their classes; write {{{name.lower()}: 1.0}}", place)
    if isfunction(target):
        node["_partial_"] = True
    check_target(node, place, Transform, inner=(Transform,), within=True)
    for argument, parameter in signatures.parameters(target).items():
        # torchvision takes members of its enumerations, of which YAML has the names.
        kind = parameter.annotation
        if isinstance(kind, type) and issubclass(kind, Enum) and isinstance(node.get(argument), str):
            node[argument] = kind[node[argument]]
    given = {"transform": node, "per": entry.get("per", "sample")}
    with named(place):
        external: External = instantiate({"_target_": "lamella.data.External", **given}, place)
    return external
