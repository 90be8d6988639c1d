"""Plan a network: turn a list of layers and the shape of a sample into shapes and a function that builds the network.

The entries are read once, while a batch on the meta device passes through the layers. So every input size is inferred
and every mistake is found before a weight is allocated. Building the network then calls PyTorch's own constructors in
the order in which the layers are written.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lamella.errors import RequestError
from lamella.network import layers
from lamella.network.entries import BRANCHED, COMPOSITES, composite_options, is_layer, named_entries, replace_targets
from lamella.network.hints import check_one_input, unknown_layer_hint
from lamella.network.initialization import initialize_parameters
from lamella.network.inputs import DType, Inputs, Shape, named_inputs, sample_shape, shape_text, zero_batch
from lamella.network.layers import Network
from lamella.network.pretrained import without_reading_weights
from lamella.network.shape_inference import MOST_LAYERS, layer_class, one_tensor, sized_layer
from lamella.network.trace import LayerRow, Trace, batch_kept
from lamella.network.trial import run_foreign, run_layer

Make = Callable[[], nn.Module]
# The batch that passes through has two samples: BatchNorm fails with one, and more would only cost time.
BATCH = 2


@dataclass(frozen=True)
class Plan:
    """A network whose sizes are all known, but which is not built yet.

    build: returns the network, with weights on the current default device. trace: what each layer does to a batch.
    output: the shape of the network's output for one sample. shape, dtype: what it was planned for, as in `plan`.
    parts: the names of the networks that it consists of, () for a single one.
    """

    build: Make
    trace: list[LayerRow]
    output: tuple[int, ...]
    shape: Shape
    dtype: DType
    parts: tuple[str, ...] = ()

    def zeros(self, batch: int, device: torch.device | str = "cpu") -> Inputs:
        """Return a batch of zeros that the network takes: a tensor (B, …), or a mapping of names to such tensors."""
        return zero_batch(self.shape, self.dtype, batch, device)

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
    shape: Shape,
    name: str = "Network",
    place: str = "network.layers",
    recorded: bool = False,
    dtype: DType = torch.float32,
    init: object = None,
) -> Plan:
    """Plan a network of layers for samples of `shape`, without the batch dimension.

    entries: a list (numbered) or a mapping (named) of layers as YAML gives them; a module, or a function that makes
    one, is an entry too. shape: a sequence, or for a network with several inputs a mapping of their names to shapes,
    whose forward then takes a mapping of these names to batches. name: printed as the class of the network. place: the
    config key of the entries. recorded: whether a run has been trained with these entries, whose lists then mean what
    they meant, also where they might be a mistake. dtype: of the samples, or a mapping of the names of the inputs.
    init: how the first weights are drawn, as in `initialize_parameters`, None to keep those of the layers.
    Raises RequestError, which names the place, the class of the layer, the shape that comes in and the way out.
    """
    x = zero_batch(shape, dtype, BATCH, "meta")
    planner = _LayerPlanner(x, recorded)
    with planner.trace.counting():
        makes, y = planner.children(replace_targets(entries, place), x, place)
    output = sample_shape(one_tensor(y, "the network", place))

    def build() -> nn.Module:
        network = Network(_build_all(makes), name)
        if init is not None:
            initialize_parameters(network, init)
        return network

    planned = Plan(build, planner.trace.rows, output, shape, dtype)
    if init is not None:
        planned.outline()  # raises the errors of `init`
    return planned


def plan_together(plans: Mapping[str, Plan]) -> Plan:
    """Plan a network whose parts a task of one's own runs: a ModuleDict of networks. plans: those of the parts."""

    def build() -> nn.Module:
        return nn.ModuleDict({name: planned.build() for name, planned in plans.items()})

    rows = [row for planned in plans.values() for row in planned.trace]
    first = next(iter(plans.values()))
    return Plan(build, rows, (), first.shape, first.dtype, tuple(plans))


def plan_module(make: Make, shape: Shape, place: str = "network", dtype: DType = torch.float32) -> Plan:
    """Plan a whole network that `make` returns, such as torchvision's resnet18, for samples of `shape`.

    shape, dtype: as in `plan`. A network for several inputs takes them by keyword, and where it is built, also as one
    mapping. place: the config key of the network. Raises RequestError where the network cannot be made, or cannot take
    samples of this shape.
    """
    x = zero_batch(shape, dtype, BATCH, "meta")
    planner = _LayerPlanner(x)
    with planner.trace.counting():
        make, y = planner.foreign(make, x, place, tuples=False)
    make = partial(_build_by_keyword, make) if isinstance(x, Mapping) else make
    return Plan(make, planner.trace.rows, sample_shape(y), shape, dtype)


class _LayerPlanner:
    """Passes a batch on the meta device through entries, and collects the functions that make their modules.

    Most methods take an entry, the batch `x` that comes in and the config key `place` of the entry, and return a
    function that makes the module and the batch that comes out. They raise RequestError. Where a network has named
    inputs, the mapping of all of them comes in first.
    """

    def __init__(self, inputs: Inputs, recorded: bool = False) -> None:
        self.named = named_inputs(inputs)
        self.recorded = recorded
        self.trace = Trace(self.named)
        self.repeats = 1  # how often the entry at hand is repeated, by all the Repeats around it

    def children(self, entries: object, x: Inputs, place: str) -> tuple[dict[str, Make], Inputs]:
        """Plan entries one after another. A null entry is no layer, so that `norm: null` leaves the layer out."""
        makes: dict[str, Make] = {}
        for name, entry in named_entries(entries, place).items():
            if entry is not None:
                makes[name], x = self.entry(entry, x, f"{place}.{name}")
        return makes, x

    def entry(self, entry: object, x: Inputs, place: str) -> tuple[Make, Inputs]:
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
            if is_layer(name) or str(name)[:1].isupper() or argument is None or isinstance(argument, int | float):
                return self.layer(str(name), argument, x, place)
        if isinstance(entry, Mapping | Sequence):
            return self.sequential(entry, x, place)
        raise RequestError(f"{place} is {entry!r}; it takes the name of a layer, with arguments or without", place)

    def composite(self, name: str, argument: object, x: Inputs, place: str) -> tuple[Make, Inputs]:
        """Plan one of COMPOSITES. Its argument is a list of layers, for Repeat `[times, layers]`, or a mapping."""
        options = composite_options(name, argument, place)
        written = isinstance(argument, Mapping) and "layers" in argument
        body = f"{place}.layers" if written else f"{place}.1" if name == "Repeat" else place
        if name == "Sequential":
            return self.sequential(options["layers"], x, body)
        if name == "Repeat":
            return self.repeat(options["times"], options["layers"], x, place, body)
        if name == "Residual":
            return self.residual(options["layers"], options.get("shortcut"), x, place, body)
        return self.branches(name, options, x, place, body)

    def sequential(self, entries: object, x: Inputs, place: str) -> tuple[Make, Inputs]:
        """Plan layers that are run one after another."""
        makes, y = self.children(entries, x, place)
        return (lambda: layers.Sequential(_build_all(makes))), y

    def repeat(self, times: int, entries: object, x: Inputs, place: str, body: str) -> tuple[Make, Inputs]:
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

    def residual(self, entries: object, shortcut: object, x: Inputs, place: str, body: str) -> tuple[Make, Inputs]:
        """Plan layers whose output is added to their input, or to the output of `shortcut`. body: the layers' key."""
        makes, y = self.children(entries, x, body)
        make_shortcut, added_to = None, x
        if shortcut is not None:
            shortcut_makes, added_to = self.children(shortcut, x, f"{place}.shortcut")
            make_shortcut = partial(_build_stack, shortcut_makes)
        x, added_to, y = (one_tensor(value, "Residual", place) for value in (x if shortcut is None else y, added_to, y))
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

    def branches(self, name: str, options: dict[str, Any], x: Inputs, place: str, body: str) -> tuple[Make, Inputs]:
        """Plan branches over one input, whose outputs become one. body: the config key of the branches."""
        branches: dict[str, Make] = {}
        outputs = []
        for key, entry in named_entries(options.pop("layers"), body).items():
            if entry is not None:
                branches[key], y = self.entry(entry, x, f"{body}.{key}")
                outputs.append(one_tensor(y, name, f"{body}.{key}"))
        try:
            combined = batch_kept(BRANCHED[name]({}, **options).combine(outputs), x)
        except Exception as error:
            shapes = ", ".join(str(sample_shape(y)) for y in outputs) or "nothing"
            how = f"combines {shapes}; their dimensions must agree, or be 1"
            if name == "Concat":
                dim = f"dimension {options.get('dim', 1)} (0 is the batch)"
                how = f"joins {shapes} along {dim}; the other dimensions must agree"
            raise RequestError(f"{place}: {name} takes {shape_text(x)} and {how}", place) from error
        return (lambda: BRANCHED[name](_build_all(branches), **options)), combined

    def layer(self, name: str, argument: object, x: Inputs, place: str) -> tuple[Make, Inputs]:
        """Plan a layer of torch.nn, whose input size is inferred. argument: as YAML gives it, None for no argument."""
        if name in COMPOSITES:
            raise RequestError(f"{place}: {name} takes layers, as in `- {name}: {COMPOSITES[name][1]}`", place)
        if layer_class(name) is None:
            hint = unknown_layer_hint(name, argument, list(COMPOSITES))
            raise RequestError(f"{place}: no layer is called {name!r}; {hint}", place)
        check_one_input(name, place)
        make = sized_layer(name, argument, x, self.named, place, self.recorded)
        return make, run_layer(self.trace, make, x, place, name)

    def foreign(self, make: Make, x: Inputs, place: str, tuples: bool = True) -> tuple[Make, Tensor]:
        """Plan a module that is not built from entries. tuples: whether it may return a tuple, the first item of which
        is passed on.
        """
        return run_foreign(self.trace, make, x, place, tuples)


def _build_by_keyword(make: Make) -> nn.Module:
    """Return a module that takes its inputs by keyword, and now also as one mapping."""
    module = make()
    module.register_forward_pre_hook(_spread_mapping, with_kwargs=True)
    return module


def _spread_mapping(
    module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call, with a single mapping spread into arguments by keyword."""
    if len(inputs) == 1 and isinstance(inputs[0], Mapping):
        return (), {**inputs[0], **keywords}
    return inputs, keywords


def _build_all(makes: Mapping[str, Make]) -> dict[str, nn.Module]:
    return {name: make() for name, make in makes.items()}


def _build_stack(makes: Mapping[str, Make]) -> nn.Module:
    """Return a single layer as it is, and several layers as a Sequential."""
    return next(iter(makes.values()))() if len(makes) == 1 else layers.Sequential(_build_all(makes))
