"""The layer stack: a list of entries and the shape of a sample become a network and its shape trace.

The entries are read once, with a batch on the meta device passed through, so that every input size is
inferred and every mistake is found before a weight is allocated. What comes out is a plan; building it
calls PyTorch's own constructors in the order in which they are written.
"""

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lamella.errors import RequestError, first_line, nearest
from lamella.network import layers
from lamella.network.layers import Network
from lamella.network.shape_inference import layer_class, layer_names, sample_shape, sized_layer
from lamella.network.trace import LayerRow, Trace, batch_kept

Make = Callable[[], nn.Module]
# The keys that each composite takes, and an example for errors.
COMPOSITES = {
    "Sequential": (("layers",), "[{Linear: 64}, ReLU]"),
    "Repeat": (("times", "layers"), "{times: 2, layers: [{Linear: 64}, ReLU]}"),
    "Residual": (("layers", "shortcut"), "[{Linear: 64}, ReLU]"),
    "Concat": (("layers", "dim"), "[{Linear: 64}, {Linear: 32}]"),
}
# Two, because one sample would fail in BatchNorm, and any more would only cost time.
BATCH = 2


@dataclass(frozen=True)
class Plan:
    """A network that is known in every size but not made yet. `build()` makes it, on the current device."""

    build: Make
    trace: list[LayerRow]
    output: tuple[int, ...]


def plan(entries: Any, shape: Sequence[int], name: str = "Network", place: str = "network.layers") -> Plan:
    """Plan the stack for samples of `shape`, which leaves out the batch dimension.

    `entries` is a list (numbered) or a mapping (named) of entries as YAML gives them; a module, or a function that
    makes one, is an entry too. Raises RequestError, which names the place, the layer's class, the shape that came in
    and the way out.
    """
    planner = _LayerPlanner()
    with planner.trace:
        makes, y = planner.children(entries, torch.empty(BATCH, *shape, device="meta"), place)
    return Plan(lambda: Network(_made(makes), name), planner.trace.rows, sample_shape(y))


def plan_module(make: Make, shape: Sequence[int], place: str = "network") -> Plan:
    """The same for a whole module that somebody else wrote, such as torchvision's resnet18."""
    planner = _LayerPlanner()
    with planner.trace:
        y = planner.foreign(make, torch.empty(BATCH, *shape, device="meta"), place, tuples=False)
    return Plan(make, planner.trace.rows, sample_shape(y))


def _made(makes: Mapping[str, Make]) -> dict[str, nn.Module]:
    return {name: make() for name, make in makes.items()}


def _is_layer(name: Any) -> bool:
    return name in COMPOSITES or layer_class(name) is not None


def _taken(name: str) -> bool:
    """Whether the modules that hold the children have an attribute of this name already."""
    return hasattr(Network({}, ""), name) or hasattr(layers.Concat({}), name)


@dataclass
class _LayerPlanner:
    trace: Trace = field(default_factory=Trace)

    def children(self, entries: Any, x: Tensor, place: str) -> tuple[dict[str, Make], Tensor]:
        """Entries one after another; a null entry is no layer, so that `norm: null` leaves it out."""
        makes: dict[str, Make] = {}
        for name, entry in self.named(entries, place).items():
            if entry is not None:
                makes[name], x = self.entry(entry, x, f"{place}.{name}")
        return makes, x

    def named(self, entries: Any, place: str) -> dict[str, Any]:
        if isinstance(entries, Mapping):
            for name in entries:
                if _is_layer(name):
                    raise RequestError(
                        f"{place}: {name} is a layer where a name is expected; write a list, `- {name}: …`, "
                        "with one dash a layer",
                        place,
                    )
                if not re.fullmatch(r"[A-Za-z_]\w*", str(name)) or _taken(str(name)):
                    raise RequestError(f"{place}: {name!r} cannot name a layer; choose another name", place)
            return dict(entries)
        if isinstance(entries, Sequence) and not isinstance(entries, str):
            return {str(number): entry for number, entry in enumerate(entries)}
        raise RequestError(f"{place} is {entries!r}; it takes a list or a mapping of layers", place)

    def entry(self, entry: Any, x: Tensor, place: str) -> tuple[Make, Tensor]:
        if isinstance(entry, str):
            return self.layer(entry, None, x, place)
        if isinstance(entry, nn.Module):
            return (lambda: entry), self.foreign(lambda: copy.deepcopy(entry), x, place)
        if callable(entry):
            return entry, self.foreign(entry, x, place)
        if isinstance(entry, Mapping) and len(entry) == 1:
            [(name, argument)] = entry.items()
            if name in COMPOSITES:
                return self.composite(name, argument, x, f"{place}.{name}")
            # A name of one's own stands for layers, and starts in lower case here; all else is meant as a layer.
            if _is_layer(name) or str(name)[:1].isupper() or argument is None or isinstance(argument, int | float):
                return self.layer(str(name), argument, x, place)
        if isinstance(entry, Mapping | Sequence):
            makes, x = self.children(entry, x, place)
            return (lambda: layers.Sequential(_made(makes))), x
        raise RequestError(f"{place} is {entry!r}; it takes the name of a layer, with arguments or without", place)

    def composite(self, name: str, argument: Any, x: Tensor, place: str) -> tuple[Make, Tensor]:
        """One of COMPOSITES. A list is its layers; for Repeat, which counts first, `[times, layers]`."""
        options = _options(name, argument, place)
        written = isinstance(argument, Mapping) and "layers" in argument
        body = f"{place}.layers" if written else f"{place}.1" if name == "Repeat" else place

        if name == "Sequential":
            makes, y = self.children(options["layers"], x, body)
            return (lambda: layers.Sequential(_made(makes))), y

        if name == "Repeat":
            repeats: dict[str, Make] = {}
            for number in range(options["times"]):
                inner, x = self.children(options["layers"], x, body)
                repeats[str(number)] = partial(_stack, inner)
            return (lambda: layers.Sequential(_made(repeats))), x

        if name == "Residual":
            inner, y = self.children(options["layers"], x, body)
            shortcut, kept = None, x
            if options.get("shortcut") is not None:
                outer, kept = self.children(options["shortcut"], x, f"{place}.shortcut")
                shortcut = partial(_stack, outer)
            if y.shape != kept.shape:
                layer = "Linear: features" if x.dim() < 3 else f"Conv{x.dim() - 2}d: [channels, 1]"
                way = f"`shortcut: [{layer}]`"
                if y.shape[2:] != kept.shape[2:]:
                    way = "`padding` in its convolutions, or their `stride` in the shortcut's"
                raise RequestError(
                    f"{place}: Residual takes {sample_shape(x)} and adds {sample_shape(y)} to {sample_shape(kept)}; "
                    f"give both one shape, for instance with {way}",
                    place,
                )
            return (lambda: layers.Residual(_stack(inner), shortcut() if shortcut else None)), y

        branches: dict[str, Make] = {}
        outputs = []
        for branch, entry in self.named(options["layers"], body).items():
            if entry is not None:
                branches[branch], y = self.entry(entry, x, f"{body}.{branch}")
                outputs.append(y)
        dim = options.get("dim", 1)
        try:
            joined = batch_kept(torch.cat(outputs, dim), x)
        except Exception as error:
            shapes = ", ".join(str(sample_shape(y)) for y in outputs) or "nothing"
            raise RequestError(
                f"{place}: Concat takes {sample_shape(x)} and joins {shapes} along dimension {dim} (0 is the batch); "
                "the other dimensions must agree",
                place,
            ) from error
        return (lambda: layers.Concat(_made(branches), dim)), joined

    def layer(self, name: str, argument: Any, x: Tensor, place: str) -> tuple[Make, Tensor]:
        """A torch.nn class with its arguments, the size of its input added."""
        if name in COMPOSITES:
            raise RequestError(f"{place}: {name} takes layers, as in `- {name}: {COMPOSITES[name][1]}`", place)
        if layer_class(name) is None:
            hint = nearest(name, [*COMPOSITES, *layer_names()])
            if name.startswith("Lazy"):
                hint = f"sizes are inferred here, write {name[4:]}"
            elif isinstance(argument, list | Mapping) and "?" not in hint:
                hint = "a name of your own starts in lower case"
            written = re.fullmatch(r"(?:torch\.)?(?:nn\.)?(\w+)(?:\((.*)\)| +(.*))?", name)
            if written and layer_class(written[1]):
                given = written[2] or written[3]
                given = f": [{given}]" if given and "," in given else f": {given}" if given else ""
                hint = f"write `{written[1]}{given}`"
            raise RequestError(f"{place}: no layer is called {name!r}; {hint}", place)
        make = sized_layer(name, argument, x, place)
        try:
            with torch.device("meta"):
                module = make()
        except Exception as error:
            raise RequestError(f"{place}: {name}: {first_line(error)}", place) from error
        try:
            y = self.trace.whole(module, x, place)
        except Exception as error:
            raise RequestError(f"{place}: {name} cannot take {sample_shape(x)}: {first_line(error)}", place) from error
        return make, y

    def foreign(self, make: Make, x: Tensor, place: str, tuples: bool = True) -> Tensor:
        """A module from elsewhere: one row for each of its leaves, in the order in which they ran."""
        with torch.random.fork_rng(devices=[]):
            try:
                with torch.device("meta"):
                    module = make()
                return self.trace.leaves(module, x, place, tuples)
            except Exception:
                # Some modules compute with values as they are made or run; those need real tensors.
                title = "it"
                try:
                    module = make()
                    title = type(module).__name__
                    return self.trace.leaves(module, torch.zeros(x.shape), place, tuples).to("meta")
                except RequestError:
                    raise
                except Exception as error:
                    message = f"{place}: {title} cannot take {sample_shape(x)}: {first_line(error)}"
                    raise RequestError(message, place) from error


def _stack(makes: Mapping[str, Make]) -> nn.Module:
    """One layer stands for itself; several are a Sequential."""
    return next(iter(makes.values()))() if len(makes) == 1 else layers.Sequential(_made(makes))


def _options(name: str, argument: Any, place: str) -> dict[str, Any]:
    """The arguments of a composite by name, checked."""
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
