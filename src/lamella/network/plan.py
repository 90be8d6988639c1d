"""Plan a network: turn a list of layers and the shape of a sample into shapes and a function that builds the network.

The entries are read once, while a batch on the meta device passes through the layers. So every input size is inferred
and every mistake is found before a weight is allocated. Building the network then calls PyTorch's own constructors in
the order in which the layers are written.
"""

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lamella.errors import RequestError, nearest
from lamella.network import layers
from lamella.network.hints import check_one_input, unknown_layer_hint
from lamella.network.layers import Network
from lamella.network.pretrained import without_reading_weights
from lamella.network.shape_inference import MOST_LAYERS, layer_class, sample_shape, sized_layer
from lamella.network.trace import LayerRow, Trace, batch_kept
from lamella.network.trial import run_foreign, run_layer

Make = Callable[[], nn.Module]
# The keys that each composite takes, and an example for error messages.
COMPOSITES = {
    "Sequential": (("layers",), "[{Linear: 64}, ReLU]"),
    "Repeat": (("times", "layers"), "{times: 2, layers: [{Linear: 64}, ReLU]}"),
    "Residual": (("layers", "shortcut"), "[{Linear: 64}, ReLU]"),
    "Concat": (("layers", "dim"), "[{Linear: 64}, {Linear: 32}]"),
}
# The batch that passes through has two samples: BatchNorm fails with one, and more would only cost time.
BATCH = 2


@dataclass(frozen=True)
class Plan:
    """A network whose sizes are all known, but which is not built yet.

    build: returns the network, with weights on the current default device. trace: what each layer does to a batch.
    output: the shape of the network's output for one sample.
    """

    build: Make
    trace: list[LayerRow]
    output: tuple[int, ...]

    def outline(self) -> nn.Module:
        """Return the network on the meta device, where weights take no memory."""
        with torch.random.fork_rng(devices=[]):
            try:
                with torch.device("meta"), without_reading_weights():
                    return self.build()
            except Exception:  # some modules compute with values while they are made
                return self.build().to("meta")


def plan(
    entries: object,
    shape: Sequence[int],
    name: str = "Network",
    place: str = "network.layers",
    recorded: bool = False,
) -> Plan:
    """Plan a network of layers for samples of `shape`, without the batch dimension.

    entries: a list (numbered) or a mapping (named) of layers as YAML gives them; a module, or a function that makes
    one, is an entry too. name: printed as the class of the network. place: the config key of the entries. recorded:
    whether a run has been trained with these entries, whose lists then mean what they meant, also where they might be
    a mistake. Raises RequestError, which names the place, the class of the layer, the shape that comes in and the way
    out.
    """
    planner = _LayerPlanner(recorded)
    with planner.trace.counting():
        makes, y = planner.children(entries, torch.empty(BATCH, *shape, device="meta"), place)
    return Plan(lambda: Network(_build_all(makes), name), planner.trace.rows, sample_shape(y))


def plan_module(make: Make, shape: Sequence[int], place: str = "network") -> Plan:
    """Plan a whole network that `make` returns, such as torchvision's resnet18, for samples of `shape`.

    shape: without the batch dimension. place: the config key of the network. Raises RequestError where the network
    cannot be made, or cannot take samples of this shape.
    """
    planner = _LayerPlanner()
    with planner.trace.counting():
        make, y = planner.foreign(make, torch.empty(BATCH, *shape, device="meta"), place, tuples=False)
    return Plan(make, planner.trace.rows, sample_shape(y))


@dataclass
class _LayerPlanner:
    """Passes a batch on the meta device through entries, and collects the functions that make their modules.

    Most methods take an entry, the batch `x` that comes in and the config key `place` of the entry, and return a
    function that makes the module and the batch that comes out. They raise RequestError.
    """

    recorded: bool = False
    trace: Trace = field(default_factory=Trace)
    repeats: int = 1  # how often the entry at hand is repeated, by all the Repeats around it

    def children(self, entries: object, x: Tensor, place: str) -> tuple[dict[str, Make], Tensor]:
        """Plan entries one after another. A null entry is no layer, so that `norm: null` leaves the layer out."""
        makes: dict[str, Make] = {}
        for name, entry in _named(entries, place).items():
            if entry is not None:
                makes[name], x = self.entry(entry, x, f"{place}.{name}")
        return makes, x

    def entry(self, entry: object, x: Tensor, place: str) -> tuple[Make, Tensor]:
        """Plan one entry, whatever it is."""
        if isinstance(entry, str):
            return self.layer(entry, None, x, place)
        if isinstance(entry, nn.Module):
            return (lambda: entry), self.foreign(lambda: copy.deepcopy(entry), x, place)[1]
        if callable(entry):
            return self.foreign(entry, x, place)
        if isinstance(entry, Mapping) and len(entry) == 1:
            [(name, argument)] = entry.items()
            if name in COMPOSITES:
                return self.composite(name, argument, x, f"{place}.{name}")
            # A user's own name for a group of layers starts in lower case here. Every other name is meant as a layer.
            if _is_layer(name) or str(name)[:1].isupper() or argument is None or isinstance(argument, int | float):
                return self.layer(str(name), argument, x, place)
        if isinstance(entry, Mapping | Sequence):
            return self.sequential(entry, x, place)
        raise RequestError(f"{place} is {entry!r}; it takes the name of a layer, with arguments or without", place)

    def composite(self, name: str, argument: object, x: Tensor, place: str) -> tuple[Make, Tensor]:
        """Plan one of COMPOSITES. Its argument is a list of layers, for Repeat `[times, layers]`, or a mapping."""
        options = _options(name, argument, place)
        written = isinstance(argument, Mapping) and "layers" in argument
        body = f"{place}.layers" if written else f"{place}.1" if name == "Repeat" else place
        if name == "Sequential":
            return self.sequential(options["layers"], x, body)
        if name == "Repeat":
            return self.repeat(options["times"], options["layers"], x, place, body)
        if name == "Residual":
            return self.residual(options["layers"], options.get("shortcut"), x, place, body)
        return self.concat(options["layers"], options.get("dim", 1), x, place, body)

    def sequential(self, entries: object, x: Tensor, place: str) -> tuple[Make, Tensor]:
        """Plan layers that are run one after another."""
        makes, y = self.children(entries, x, place)
        return (lambda: layers.Sequential(_build_all(makes))), y

    def repeat(self, times: int, entries: object, x: Tensor, place: str, body: str) -> tuple[Make, Tensor]:
        """Plan layers that are written once and built `times` times, one after another. body: the layers' key."""
        outer, self.repeats = self.repeats, self.repeats * times
        if self.repeats > MOST_LAYERS:
            raise RequestError(
                f"{place}: Repeat would make {self.repeats:,} layers or more; a network has at most {MOST_LAYERS:,}",
                place,
            )
        repeats: dict[str, Make] = {}
        for number in range(times):
            makes, x = self.children(entries, x, body)
            repeats[str(number)] = partial(_build_stack, makes)
        self.repeats = outer
        return (lambda: layers.Sequential(_build_all(repeats))), x

    def residual(self, entries: object, shortcut: object, x: Tensor, place: str, body: str) -> tuple[Make, Tensor]:
        """Plan layers whose output is added to their input, or to the output of `shortcut`. body: the layers' key."""
        makes, y = self.children(entries, x, body)
        make_shortcut, added_to = None, x
        if shortcut is not None:
            shortcut_makes, added_to = self.children(shortcut, x, f"{place}.shortcut")
            make_shortcut = partial(_build_stack, shortcut_makes)
        if y.shape != added_to.shape:
            layer = "Linear: features" if x.dim() < 3 else f"Conv{x.dim() - 2}d: [channels, 1]"
            way = f"`shortcut: [{layer}]`"
            if y.shape[2:] != added_to.shape[2:]:
                way = "`padding` in its convolutions, or their `stride` in the shortcut's"
            raise RequestError(
                f"{place}: Residual takes {sample_shape(x)} and adds {sample_shape(y)} to {sample_shape(added_to)}; "
                f"give both one shape, for instance with {way}",
                place,
            )
        return (lambda: layers.Residual(_build_stack(makes), make_shortcut() if make_shortcut else None)), y

    def concat(self, entries: object, dim: int, x: Tensor, place: str, body: str) -> tuple[Make, Tensor]:
        """Plan branches over one input, whose outputs are joined along `dim`. body: the config key of the branches."""
        branches: dict[str, Make] = {}
        outputs = []
        for name, entry in _named(entries, body).items():
            if entry is not None:
                branches[name], y = self.entry(entry, x, f"{body}.{name}")
                outputs.append(y)
        try:
            joined = batch_kept(torch.cat(outputs, dim), x)
        except Exception as error:
            shapes = ", ".join(str(sample_shape(y)) for y in outputs) or "nothing"
            raise RequestError(
                f"{place}: Concat takes {sample_shape(x)} and joins {shapes} along dimension {dim} (0 is the batch); "
                "the other dimensions must agree",
                place,
            ) from error
        return (lambda: layers.Concat(_build_all(branches), dim)), joined

    def layer(self, name: str, argument: object, x: Tensor, place: str) -> tuple[Make, Tensor]:
        """Plan a layer of torch.nn, whose input size is inferred. argument: as YAML gives it, None for no argument."""
        if name in COMPOSITES:
            raise RequestError(f"{place}: {name} takes layers, as in `- {name}: {COMPOSITES[name][1]}`", place)
        if layer_class(name) is None:
            hint = unknown_layer_hint(name, argument, list(COMPOSITES))
            raise RequestError(f"{place}: no layer is called {name!r}; {hint}", place)
        check_one_input(name, place)
        make = sized_layer(name, argument, x, place, self.recorded)
        return make, run_layer(self.trace, make, x, place, name)

    def foreign(self, make: Make, x: Tensor, place: str, tuples: bool = True) -> tuple[Make, Tensor]:
        """Plan a module that is not built from entries. tuples: whether it may return a tuple, the first item of which
        is passed on.
        """
        return run_foreign(self.trace, make, x, place, tuples)


def _build_all(makes: Mapping[str, Make]) -> dict[str, nn.Module]:
    return {name: make() for name, make in makes.items()}


def _build_stack(makes: Mapping[str, Make]) -> nn.Module:
    """Return a single layer as it is, and several layers as a Sequential."""
    return next(iter(makes.values()))() if len(makes) == 1 else layers.Sequential(_build_all(makes))


def _is_layer(name: object) -> bool:
    return name in COMPOSITES or layer_class(name) is not None


def _is_attribute(name: str) -> bool:
    """Return True if a module that could get a child of this name has an attribute of this name already."""
    return hasattr(Network({}, ""), name) or hasattr(layers.Concat({}), name)


def _named(entries: object, place: str) -> dict[str, object]:
    """Return entries by name: the keys of a mapping, or the numbers in a list. Raise RequestError for all else."""
    if isinstance(entries, Mapping):
        for name in entries:
            if _is_layer(name):
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


def _options(name: str, argument: object, place: str) -> dict[str, Any]:
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
