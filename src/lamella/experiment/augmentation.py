"""Build the transforms that `data.augment` lists."""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
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
EXAMPLE = f"{KEY}: [{{crop: 4}}, flip]"
# Other names of the transforms, with what they are called here.
FOREIGN = {
    "cutout": "erase", "rotation": "rotate", "colorjitter": "color", "color_jitter": "color", "jitter": "color",
    "hflip": "flip", "horizontal_flip": "flip",
}  # fmt: skip


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
        raise RequestError(f"{place} is {entry!r}; it takes the name of a transform, as in {EXAMPLE}", place)
    if name not in NAMES:
        known = FOREIGN.get(name.lower().removeprefix("random"))
        hint = f"did you mean {known}?" if known else nearest(name, NAMES)
        raise RequestError(
            f"{place}: there is no transform {name!r}; {hint}; one of torchvision or of your own is written as "
            f"{{_target_: …}}",
            place,
        )
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


def _external(entry: Mapping[str, Any], place: str) -> External:
    """Return a transform of torchvision or of the project's own."""
    from torchvision.transforms.v2 import Transform

    node = {name: value for name, value in entry.items() if name != "per"}
    target = resolve_target(node["_target_"], f"{place}._target_", Transform)
    if node["_target_"].rpartition(".")[2] in ("MixUp", "CutMix"):
        name = node["_target_"].rpartition(".")[2].lower()
        raise RequestError(f"{place}: torchvision's {name} takes whole batches; write {{{name}: 1.0}}", place)
    check_target(node, place, Transform, inner=(Transform,))
    for name, parameter in signatures.parameters(target).items():
        # torchvision takes members of its enumerations, of which YAML has the names.
        kind = parameter.annotation
        if isinstance(kind, type) and issubclass(kind, Enum) and isinstance(node.get(name), str):
            node[name] = kind[node[name]]
    transform = instantiate(node, place)
    if not callable(transform):
        raise RequestError(
            f"{place}: {node['_target_']} gives a {type(transform).__name__}, which is no function", place
        )
    with named(place):
        return External(transform, entry.get("per", "sample"))
