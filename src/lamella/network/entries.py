"""Read the entries of a network as YAML gives them: their names, and the arguments of composite layers."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from lamella.config.targets import check_target, instantiate
from lamella.errors import RequestError, nearest
from lamella.network import layers
from lamella.network.layers import Network
from lamella.network.shape_inference import layer_class

# The keys that each composite takes, and an example for error messages.
COMPOSITES = {
    "Sequential": (("layers",), "[{Linear: 64}, ReLU]"),
    "Repeat": (("times", "layers"), "{times: 2, layers: [{Linear: 64}, ReLU]}"),
    "Residual": (("layers", "shortcut"), "[{Linear: 64}, ReLU]"),
    "Concat": (("layers", "dim"), "[{Linear: 64}, {Linear: 32}]"),
    "Add": (("layers",), "[{Linear: 64}, {Linear: 64}]"),
    "Multiply": (("layers",), "[[], [{Linear: 64}, Sigmoid]]"),
}
# The composites that run branches over one input.
BRANCHED: dict[str, Callable[..., layers.Branches]] = {
    "Concat": layers.Concat,
    "Add": layers.Add,
    "Multiply": layers.Multiply,
}


def replace_targets(entry: object, place: str) -> object:
    """Return an entry with a function that makes the module in place of each `_target_` node.

    All of them are checked before anything is imported or made. Raises RequestError.
    """
    if isinstance(entry, Mapping):
        if "_target_" in entry:
            check_target(entry, place, nn.Module, inner=(nn.Module,))
            return partial(instantiate, entry, place)
        return {name: replace_targets(child, f"{place}.{name}") for name, child in entry.items()}
    if isinstance(entry, list | tuple):
        return [replace_targets(child, f"{place}.{number}") for number, child in enumerate(entry)]
    return entry


def is_layer(name: object) -> bool:
    """Return True if an entry may have this name."""
    return name in COMPOSITES or layer_class(name) is not None


def _is_attribute(name: str) -> bool:
    """Return True if a module that could get a child of this name has an attribute of this name already."""
    return hasattr(Network({}, ""), name) or hasattr(layers.Concat({}), name)


def named_entries(entries: object, place: str) -> dict[str, object]:
    """Return entries by name: the keys of a mapping, or the numbers in a list. Raise RequestError for all else."""
    if isinstance(entries, Mapping):
        for name in entries:
            if is_layer(name):
                raise RequestError(
                    f"{place}: {name} is a layer where a name is expected; write a list, `- {name}: …`, "
                    "with one dash a layer",
                    place,
                )
            if not re.fullmatch(r"[A-Za-z_]\w*", str(name)) or _is_attribute(str(name)):
                raise RequestError(f"{place}: {name!r} cannot name a layer; choose another name", place)
        return dict(entries)
    if isinstance(entries, Sequence) and not isinstance(entries, str):
        return {str(number): entry for number, entry in enumerate(entries)}
    raise RequestError(f"{place} is {entries!r}; it takes a list or a mapping of layers", place)


def composite_options(name: str, argument: object, place: str) -> dict[str, Any]:
    """Return the arguments of a composite by name. Raise RequestError for unknown, wrong and missing ones."""
    if name == "Repeat" and isinstance(argument, Sequence) and len(argument) == 2 and not isinstance(argument, str):
        argument = {"times": argument[0], "layers": argument[1]}
    known, example = COMPOSITES[name]
    options = dict(argument) if isinstance(argument, Mapping) and set(argument) & set(known) else {"layers": argument}
    for key in set(options) - set(known):
        raise RequestError(f"{place}.{key}: {name} has no such argument; {nearest(key, known)}", f"{place}.{key}")
    times = options.get("times", 0)
    if not isinstance(times, int) or times < 0:
        raise RequestError(f"{place}.times is {times!r}; it takes a whole number from 0 on", f"{place}.times")
    if "layers" not in options or (name == "Repeat" and "times" not in options):
        what = "a count and layers" if name == "Repeat" else "layers"
        raise RequestError(f"{place}: {name} takes {what}, as in `- {name}: {example}`", place)
    return options
