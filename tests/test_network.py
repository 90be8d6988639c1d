"""The layer stack through `plan`: sizes, weights, trace, composites, modules from elsewhere, and every refusal."""

import inspect
import re
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from conftest import Lamella
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.modules import activation
from torchvision.models import SqueezeNet1_1_Weights, resnet18, squeezenet1_1

from lamella.errors import RequestError
from lamella.network.plan import Plan, plan, plan_module
from lamella.network.trace import LayerRow

IMAGE = (1, 28, 28)
NOTE_STACK = [{"Linear": 512}, "ReLU", {"Linear": 512}, "ReLU", {"Linear": 10}, "ReLU"]
NOTE = {"flatten": "Flatten", "linear_relu_stack": NOTE_STACK}
NOTE_PRINTED = """\
NeuralNetwork(
  (flatten): Flatten(start_dim=1, end_dim=-1)
  (linear_relu_stack): Sequential(
    (0): Linear(in_features=784, out_features=512, bias=True)
    (1): ReLU()
    (2): Linear(in_features=512, out_features=512, bias=True)
    (3): ReLU()
    (4): Linear(in_features=512, out_features=10, bias=True)
    (5): ReLU()
  )
)
"""
CNN = {
    "features": [{"Conv2d": [8, 3]}, {"BatchNorm2d": {"momentum": 0.2}}, "ReLU", {"MaxPool2d": 2}],
    "classifier": ["Flatten", {"Dropout": 0.25}, {"Linear": 10}],
}
RECURRENT = [{"Flatten": [1, 2]}, {"LSTM": {"hidden_size": 16, "num_layers": 2}}, "Flatten", {"Linear": 10}]
LAST = {"out_channels": 4, "kernel_size": 3, "padding": 1}
BRANCH = [{"Conv2d": [4, 3, 2, 1]}, "BatchNorm2d", "ReLU", {"Conv2d": LAST}]
RESIDUAL = [{"Residual": {"shortcut": [{"Conv2d": [4, 1, 2]}], "layers": BRANCH}}, "Flatten", {"Linear": 10}]


class NoteByHand(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        layers = nn.Linear(28 * 28, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10), nn.ReLU()
        self.linear_relu_stack = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.linear_relu_stack(self.flatten(x))
        return output


class CNNByHand(nn.Sequential):
    def __init__(self) -> None:
        features = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8, momentum=0.2), nn.ReLU(), nn.MaxPool2d(2)
        super().__init__(*features, nn.Flatten(), nn.Dropout(0.25), nn.Linear(8 * 13 * 13, 10))


class RecurrentByHand(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(28, 16, num_layers=2, batch_first=True)
        self.linear = nn.Linear(28 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.linear(self.lstm(x.flatten(1, 2))[0].flatten(1))
        return output


class ResidualByHand(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, 1, 1))
        self.shortcut = nn.Conv2d(1, 4, 1, 2)
        self.linear = nn.Linear(4 * 14 * 14, 10)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.linear((self.branch(x) + self.shortcut(x)).flatten(1))
        return output


class ComputesWithValues(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (2.0 if x.sum().item() > 0 else 1.0)


class TwoOutputs(nn.Linear):
    def forward(self, x: Tensor) -> Any:
        return {"out": super().forward(x)}


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(mine, theirs) for mine, theirs in pairs)


def parameters_add_up(planned: Plan) -> bool:
    return sum(row.parameters for row in planned.trace) == sum(p.numel() for p in planned.build().parameters())


def test_the_network_of_the_note(capsys: pytest.CaptureFixture[str]) -> None:
    planned = plan(NOTE, IMAGE, name="NeuralNetwork")
    print(planned.build())
    assert capsys.readouterr().out == NOTE_PRINTED
    stack = [f"network.layers.linear_relu_stack.{number}" for number in range(6)]
    assert [row.place for row in planned.trace] == ["network.layers.flatten", *stack]
    assert planned.trace[3] == LayerRow("network.layers.linear_relu_stack.2", "Linear", (512,), (512,), 262656, 262144)
    assert parameters_add_up(planned)


@pytest.mark.parametrize(
    ("entries", "by_hand"),
    [(NOTE, NoteByHand), (CNN, CNNByHand), (RECURRENT, RecurrentByHand), (RESIDUAL, ResidualByHand)],
    ids=["note", "cnn", "lstm", "residual"],
)
def test_weights_and_outputs_are_those_of_a_hand_written_class(entries: Any, by_hand: type[nn.Module]) -> None:
    torch.manual_seed(11)
    network = plan(entries, IMAGE).build()
    torch.manual_seed(11)
    expected = by_hand()
    assert same_weights(network, expected)
    x = torch.rand(3, *IMAGE)
    assert torch.equal(network.eval()(x), expected.eval()(x))


def test_planning_consumes_no_random_numbers_and_building_does() -> None:
    before = torch.get_rng_state()
    for entries in (NOTE, CNN, RECURRENT, RESIDUAL, ["RReLU", {"Repeat": [2, [FC]]}, lambda: ComputesWithValues(4, 3)]):
        planned = plan(entries, IMAGE)
    plan_module(ResidualByHand, IMAGE)
    assert torch.equal(before, torch.get_rng_state())
    assert not same_weights(planned.build(), planned.build())


SIZES: dict[str, Any] = {
    "linear-scalar": ({"Linear": 20}, (7,), {"in_features": 7}, (20,), 160),
    "linear-list": ({"Linear": [20, False]}, (7,), {"in_features": 7}, (20,), 140),
    "linear-mapping": ({"Linear": {"out_features": 20}}, (5, 7), {"in_features": 7}, (5, 20), 160),
    "conv1d": ({"Conv1d": [4, 3]}, (2, 9), {"in_channels": 2}, (4, 7), 28),
    "conv2d": ({"Conv2d": {"out_channels": 4, "kernel_size": 3}}, (2, 9, 9), {"in_channels": 2}, (4, 7, 7), 76),
    "conv3d": ({"Conv3d": [4, 2]}, (2, 5, 5, 5), {"in_channels": 2}, (4, 4, 4, 4), 68),
    "transpose1d": ({"ConvTranspose1d": [4, 3]}, (2, 9), {"in_channels": 2}, (4, 11), 28),
    "transpose2d": ({"ConvTranspose2d": [4, 2, 2]}, (2, 5, 5), {"in_channels": 2}, (4, 10, 10), 36),
    "transpose3d": ({"ConvTranspose3d": [4, 2]}, (2, 3, 3, 3), {"in_channels": 2}, (4, 4, 4, 4), 68),
    "batchnorm1d-2d-input": ("BatchNorm1d", (6,), {"num_features": 6}, (6,), 12),
    "batchnorm1d-3d-input": ("BatchNorm1d", (6, 4), {"num_features": 6}, (6, 4), 12),
    "batchnorm2d": ("BatchNorm2d", (6, 4, 4), {"num_features": 6}, (6, 4, 4), 12),
    "batchnorm3d": ("BatchNorm3d", (6, 4, 4, 4), {"num_features": 6}, (6, 4, 4, 4), 12),
    "instancenorm2d": ({"InstanceNorm2d": {"affine": True}}, (6, 4, 4), {"num_features": 6}, (6, 4, 4), 12),
    "layernorm-features": ("LayerNorm", (8,), {"normalized_shape": (8,)}, (8,), 16),
    "layernorm-sequence": ("LayerNorm", (5, 8), {"normalized_shape": (8,)}, (5, 8), 16),
    "layernorm-image": ("LayerNorm", (2, 4, 4), {"normalized_shape": (2, 4, 4)}, (2, 4, 4), 64),
    "groupnorm": ({"GroupNorm": 4}, (8, 5, 5), {"num_channels": 8}, (8, 5, 5), 16),
    "rnn": ({"RNN": 4}, (5, 6), {"input_size": 6, "batch_first": True}, (5, 4), 48),
    "lstm": ({"LSTM": 4}, (5, 6), {"input_size": 6, "batch_first": True}, (5, 4), 192),
    "gru": ({"GRU": [4, 1, False]}, (5, 6), {"input_size": 6, "batch_first": True}, (5, 4), 120),
    "batch-second": ({"GRU": {"hidden_size": 4, "batch_first": False}}, (5, 6), {"batch_first": False}, (5, 4), 144),
}


@pytest.mark.parametrize(("entry", "shape", "attributes", "output", "parameters"), SIZES.values(), ids=list(SIZES))
def test_the_input_size_is_inferred(
    entry: Any, shape: tuple[int, ...], attributes: dict[str, Any], output: tuple[int, ...], parameters: int
) -> None:
    planned = plan([entry], shape)
    network = planned.build()
    assert isinstance(network, nn.Sequential)
    assert {name: getattr(network[0], name) for name in attributes} == attributes
    assert planned.trace == [
        LayerRow(
            "network.layers.0", type(network[0]).__name__, shape, output, parameters, planned.trace[0].multiply_adds
        )
    ]
    assert parameters_add_up(planned)
    assert planned.output == output
    assert network(torch.rand(3, *shape)).shape == (3, *output)


@pytest.mark.parametrize(
    ("layer", "others", "key", "agrees", "contradicts"),
    [
        ("Linear", {"out_features": 3}, "in_features", 8, 4),
        ("Conv2d", {"out_channels": 3, "kernel_size": 1}, "in_channels", 2, 3),
        ("LayerNorm", {}, "normalized_shape", [4, 8], [2, 8]),
        ("LayerNorm", {}, "normalized_shape", 8, 4),
    ],
)
def test_a_written_size_must_agree(layer: str, others: dict[str, int], key: str, agrees: Any, contradicts: Any) -> None:
    assert plan([{layer: {key: agrees, **others}}], (2, 4, 8)).trace[0].input == (2, 4, 8)
    with pytest.raises(RequestError, match=rf"^network.layers.0: {layer} has {key}=.* what comes in is \(2, 4, 8\)"):
        plan([{layer: {key: contradicts, **others}}], (2, 4, 8))


def test_the_trace_goes_into_composites() -> None:
    residual = {"Residual": {"layers": {"fc": {"Linear": 3}}, "shortcut": [{"Linear": 3}]}}
    concat = {"Concat": ["ReLU", [{"Linear": 2}]]}
    entries = [{"Repeat": {"times": 2, "layers": [{"Linear": 6}]}}, {"stage": residual}, concat]
    planned = plan([*entries, {"Sequential": ["Tanh"]}], (4,), place="model")
    assert planned.trace == [
        LayerRow("model.0.Repeat.layers.0", "Linear", (4,), (6,), 30, 24),
        LayerRow("model.0.Repeat.layers.0", "Linear", (6,), (6,), 42, 36),
        LayerRow("model.1.stage.Residual.layers.fc", "Linear", (6,), (3,), 21, 18),
        LayerRow("model.1.stage.Residual.shortcut.0", "Linear", (6,), (3,), 21, 18),
        LayerRow("model.2.Concat.0", "ReLU", (3,), (3,), 0, 0),
        LayerRow("model.2.Concat.1.0", "Linear", (3,), (2,), 8, 6),
        LayerRow("model.3.Sequential.0", "Tanh", (5,), (5,), 0, 0),
    ]
    assert parameters_add_up(planned)


FC, CONV = {"Linear": 4}, {"Conv1d": [3, 1]}
BLOCK = [FC, "Tanh"]
COMPOSITES: dict[str, tuple[Any, Callable[[Any, Tensor], Tensor]]] = {
    "repeat": ({"Repeat": {"times": 2, "layers": BLOCK}}, lambda m, x: m[1][0](m[0][0](x).tanh()).tanh()),
    "repeat-list": ({"Repeat": [2, BLOCK]}, lambda m, x: m[1][0](m[0][0](x).tanh()).tanh()),
    "residual-one": ({"Residual": [FC]}, lambda m, x: m.layers(x) + x),
    "residual-list": ({"Residual": BLOCK}, lambda m, x: m.layers[0](x).tanh() + x),
    "residual-mapping": ({"Residual": {"fc": FC, "act": "Tanh"}}, lambda m, x: m.layers.fc(x).tanh() + x),
    "shortcut": ({"Residual": {"layers": [FC], "shortcut": BLOCK}}, lambda m, x: m.layers(x) + m.shortcut(x)),
    "concat": ({"Concat": [CONV, BLOCK]}, lambda m, x: torch.cat([branch(x) for branch in m.children()], 1)),
    "concat-named": ({"Concat": {"a": FC, "b": "Tanh"}}, lambda m, x: torch.cat([m.a(x), x.tanh()], 1)),
    "concat-dim": ({"Concat": {"layers": ["Tanh"] * 2, "dim": 2}}, lambda m, x: torch.cat([x.tanh()] * 2, 2)),
    "sequential": ({"Sequential": BLOCK}, lambda m, x: m[0](x).tanh()),
    "nested-list": (BLOCK, lambda m, x: m[0](x).tanh()),
    "nested-mapping": ({"fc": FC, "norm": None, "act": "Tanh"}, lambda m, x: m.act(m.fc(x))),
    "null": ([None, FC, None, "Tanh"], lambda m, x: m.get_submodule("3")(m.get_submodule("1")(x))),
}


@pytest.mark.parametrize(("entry", "by_hand"), COMPOSITES.values(), ids=list(COMPOSITES))
def test_a_composite_computes_what_its_layers_do_by_hand(entry: Any, by_hand: Callable[[Any, Tensor], Tensor]) -> None:
    planned = plan([entry], (5, 4))
    network = planned.build()
    assert isinstance(network, nn.Sequential)
    x = torch.rand(3, 5, 4)
    assert torch.equal(network(x), by_hand(network[0], x))
    assert network(x).shape == (3, *planned.output)
    assert parameters_add_up(planned)


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
def test_every_activation_can_be_named() -> None:
    names = []
    x = torch.randn(3, 4, 6, 6)
    for name in activation.__all__:
        parameters = inspect.signature(getattr(nn, name)).parameters.values()
        if all(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
            planned = plan([name], (4, 6, 6))
            expected = getattr(nn, name)().eval()(x)
            assert (planned.trace[0].layer, planned.output) == (name, expected.shape[1:])
            assert torch.equal(planned.build().eval()(x), expected)
            names.append(name)
    assert len(names) > 20


def test_a_whole_module_from_elsewhere_is_traced() -> None:
    planned = plan_module(lambda: resnet18(num_classes=10), (3, 32, 32))
    assert planned.trace[0] == LayerRow("network.conv1", "Conv2d", (3, 32, 32), (64, 16, 16), 9408, 9408 * 16 * 16)
    assert planned.trace[-1] == LayerRow("network.fc", "Linear", (512,), (10,), 5130, 5120)
    assert parameters_add_up(planned)
    assert planned.build()(torch.rand(3, 3, 32, 32)).shape == (3, *planned.output) == (3, 10)


def test_modules_and_what_makes_them_are_entries() -> None:
    module = nn.Linear(6, 3)
    planned = plan([{"Linear": 6}, module, lambda: nn.Sequential(nn.Linear(3, 2), nn.ReLU())], (4,))
    first, second = planned.build(), planned.build()
    assert isinstance(first, nn.Sequential)
    assert isinstance(second, nn.Sequential)
    assert first[1] is second[1] is module
    assert first[2] is not second[2]
    rows = [(row.place, row.layer, row.parameters) for row in planned.trace[1:3]]
    assert rows == [("network.layers.1", "Linear", 21), ("network.layers.2.0", "Linear", 8)]


def test_a_module_that_computes_with_values_is_an_entry() -> None:
    planned = plan([lambda: ComputesWithValues(4, 3), ComputesWithValues(3, 2)], (4,))
    assert [(row.output, row.parameters) for row in planned.trace] == [((3,), 15), ((2,), 8)]
    assert planned.build()(torch.rand(3, 4)).shape == (3, 2)


WIDTHS = st.integers(1, 20)
OTHERS = [{"ReLU": None}, {"Dropout": 0.3}, {"BatchNorm1d": None}, {"LayerNorm": None}]
LAYERS = st.builds(dict, Linear=WIDTHS) | st.sampled_from(OTHERS)
STACKS = st.lists(LAYERS | st.lists(LAYERS | st.lists(LAYERS, max_size=3), max_size=3), max_size=6)


def flat(entries: list[Any]) -> list[Any]:
    return [leaf for entry in entries for leaf in (flat(entry) if isinstance(entry, list) else [entry])]


@settings(max_examples=50, deadline=None)
@given(entries=STACKS, size=WIDTHS, seed=st.integers(0, 1000))
@pytest.mark.slow
def test_any_stack_is_what_it_would_be_by_hand(entries: list[Any], size: int, seed: int) -> None:
    torch.manual_seed(seed)
    planned = plan(entries, (size,))
    network = planned.build()
    x = torch.rand(3, size)
    torch.manual_seed(seed)
    expected = nn.Sequential()
    for [(name, argument)] in (entry.items() for entry in flat(entries)):
        arguments = [size] * (name in ("Linear", "BatchNorm1d", "LayerNorm")) + [argument] * (argument is not None)
        expected.append(getattr(nn, name)(*arguments))
        size = argument if name == "Linear" else size
    assert same_weights(network, expected)
    assert torch.equal(network.eval()(x), expected.eval()(x))
    assert network.train()(x).shape == (3, *planned.output) == (3, size)


FLAT, CUBE = (4,), (3, 8, 8)
ERRORS: dict[str, tuple[Any, tuple[int, ...], str]] = {
    "unknown": (["Liner"], FLAT, ".0: no layer is called 'Liner'; did you mean Linear…"),
    "unknown-key": ([[{"Liner": 3}]], FLAT, ".0.0: no layer is called 'Liner'; did you mean Linear…"),
    "lower-case": ({"fc": "linear"}, FLAT, ".fc: no layer is called 'linear'; did you mean Linear…"),
    "argument": ([{"Linear": {"out": 3}}], FLAT, ".0.Linear.out: Linear has no such argument; …out_features…"),
    "missing": ([{"Conv2d": 3}], CUBE, ".0.Conv2d: Conv2d needs a value for 'kernel_size'"),
    "type": ([{"Linear": "ten"}], FLAT, ".0.Linear.out_features is 'ten'; Linear takes int"),
    "type-union": (
        [{"Conv2d": [3, "x"]}],
        CUBE,
        ".0.Conv2d.kernel_size is 'x'; Conv2d takes int or a list; in_channels …",
    ),
    "too-many": ([{"ReLU": [1, 2]}], FLAT, ".0: ReLU takes at most inplace, got [1, 2]"),
    "rank": (["Flatten", {"Conv2d": [3, 3]}], CUBE, ".1: Conv2d expects (channels, height, width), … is (192,)"),
    "window": (["ReLU", {"MaxPool2d": 9}], CUBE, ".1: MaxPool2d cannot take (3, 8, 8): …"),
    "residual": (
        [{"Residual": [{"Linear": 3}]}],
        FLAT,
        ".0.Residual: Residual takes (4,) and adds (3,) to (4,); …[Linear: …",
    ),
    "inside": ([{"Repeat": [2, ["ReLU", "Bias"]]}], FLAT, ".0.Repeat.1.1: no layer is called 'Bias'; …"),
    "concat": (
        [{"Concat": [{"Conv2d": [3, 3]}, "ReLU"]}],
        CUBE,
        "…Concat takes (3, 8, 8) and joins (3, 6, 6), (3, 8, 8) …",
    ),
    "layer-as-name": ({"Linear": 10}, FLAT, ": Linear is a layer where a name is expected; write a list, `- Linear…"),
    "two-in-one": ([{"Linear": 10, "ReLU": None}], FLAT, ".0: Linear is a layer where a name is expected; …"),
    "name-taken": ({"training": "ReLU"}, FLAT, ": 'training' cannot name a layer; choose another name"),
    "name-dotted": ([{"a.b": ["ReLU"], "c": "ReLU"}], FLAT, ".0: 'a.b' cannot name a layer; choose another name"),
    "scalar": ([10], FLAT, ".0 is 10; it takes the name of a layer, with arguments or without"),
    "text": ("Linear", FLAT, " is 'Linear'; it takes a list or a mapping of layers"),
    "lazy": ([{"LazyLinear": 3}], FLAT, ".0: no layer is called 'LazyLinear'; sizes are inferred here, write Linear"),
    "repeat": ([{"Repeat": {"times": 2, "layers": [], "n": 1}}], FLAT, ".0.Repeat.n: Repeat has no such argument; …"),
    "forward": (["Tanh", lambda: nn.Linear(5, 2)], FLAT, ".1: Linear cannot take (4,): …"),
    "lower-case-key": ([{"linear": 3}], FLAT, ".0: no layer is called 'linear'; did you mean Linear…"),
    "null-key": ([{"relu": None}], FLAT, ".0: no layer is called 'relu'; did you mean ReLU…"),
    "composite": ([{"Residul": ["ReLU"]}], FLAT, ".0: no layer is called 'Residul'; did you mean Residual?…"),
    "own-name": ([{"Stage1": ["ReLU"]}], FLAT, ".0: no layer is called 'Stage1'; …your own starts in lower case"),
    "container": (["ModuleList"], FLAT, ".0: no layer is called 'ModuleList'; write a list, …"),
    "bare": (["Residual"], FLAT, ".0: Residual takes layers, as in `- Residual: …`"),
    "repeat-count": ([{"Repeat": [-1, ["ReLU"]]}], FLAT, ".0.Repeat.times is -1; it takes a whole number from 0 on"),
    "repeat-three": ([{"Repeat": [2, ["ReLU"], ["Tanh"]]}], FLAT, ".0.Repeat: Repeat takes a count and layers, …"),
    "repeat-layers": ([{"Repeat": {"times": 2}}], FLAT, ".0.Repeat: Repeat takes a count and layers, …"),
    "concat-empty": ([{"Concat": []}], FLAT, ".0.Concat: Concat takes (4,) and joins nothing along dimension 1 …"),
    "concat-batch": ([{"Concat": {"layers": ["ReLU", "ReLU"], "dim": 0}}], FLAT, ".0.Concat: Concat takes …"),
    "concat-name": ([{"Concat": {"dim": "ReLU", "b": "ReLU"}}], FLAT, ".0.Concat…"),
    "batch-flattened": ([{"Flatten": 0}], CUBE, ".0: Flatten cannot take (3, 8, 8): it changes the batch dimension…"),
    "batch-unfolded": ([{"Unfold": 2}], (4, 4), ".0: Unfold cannot take (4, 4): it changes the batch dimension…"),
    "recurrent": ([{"LSTM": 4}], FLAT, ".0: LSTM expects (length, features), what comes in is (4,)"),
    "normalized": (
        [{"LayerNorm": [3, 4]}],
        (3, 4),
        "….0: LayerNorm has its normalized_shape=(4,) inferred, …",
    ),
    "normalized-null": ([{"LayerNorm": {"normalized_shape": None}}], FLAT, "…normalized_shape is None; …"),
    "order-conv": (
        [{"Conv2d": [3, 6, 5]}],
        CUBE,
        ".0: Conv2d: [3, 6, 5] begins with the size of the input, …; write `Conv2d: {out_channels: 6, kernel_size: 5}`,"
        " or `Conv2d: {out_channels: 3, kernel_size: 6, stride: 5}` …",
    ),
    "order-transposed": ([{"ConvTranspose2d": [3, 4, 2]}], CUBE, ".0: ConvTranspose2d: [3, 4, 2] begins with …"),
    "order-linear": ([{"Linear": [4, 10]}], FLAT, ".0: Linear: [4, 10] begins with …; write `Linear: 10`"),
    "order-recurrent": ([{"LSTM": [4, 64]}], (3, 4), ".0: LSTM: [4, 64] begins …write `LSTM: {hidden_size: 64}`, …"),
    "order-cell": ([{"GRUCell": [4, 8]}], FLAT, ".0: GRUCell: [4, 8] begins …write `GRUCell: 8`"),
    "order-norm": ([{"LayerNorm": [[4]]}], FLAT, ".0: LayerNorm: [[4]] begins …; write `LayerNorm`"),
    "eps-groups": ([{"GroupNorm": [3, 3]}], CUBE, ".0: GroupNorm …, and its second value is eps; write `GroupNorm: 3`"),
    "eps-other": ([{"GroupNorm": [3, 32]}], CUBE, ".0: GroupNorm …, and its second value is eps; write `GroupNorm: 3`"),
    "eps-instance": ([{"InstanceNorm2d": 3}], CUBE, ".0: InstanceNorm2d …; write `InstanceNorm2d`"),
    "python": (["nn.Conv2d(3, 32, 3)"], CUBE, "…write `Conv2d: [32, 3]`"),
    "python-keywords": (
        ["torch.nn.Conv2d(3, 32, kernel_size=3, bias=False)"],
        CUBE,
        "…write `Conv2d: {out_channels: 32, kernel_size: 3, bias: false}`",
    ),
    "python-without-size": (["Linear(10)"], FLAT, "…write `Linear: 10`"),
    "python-nothing": (["nn.ReLU()"], FLAT, "…write `ReLU`"),
    "python-groups": (["nn.GroupNorm(8, 32)"], CUBE, "…write `GroupNorm: 8`"),
    "python-variable": (["nn.Linear(n, 10)"], FLAT, "…write `Linear: [n, 10]`"),
    "one-list": ([{"Unflatten": [1, 2, 2]}], FLAT, "…for a list as one value write `Unflatten: [1, [2, 2]]`"),
    "one-list-alone": ([{"AdaptiveAvgPool2d": [4, 4]}], CUBE, "…write `AdaptiveAvgPool2d: {output_size: [4, 4]}`"),
    "loss": (["MSELoss"], FLAT, ".0: MSELoss is a loss and no layer; choose it by loss._target_=torch.nn.MSELoss"),
    "attention": (
        [{"MultiheadAttention": [4, 2]}],
        (3, 4),
        ".0: MultiheadAttention needs a further input (key, value), …self-attention is `SelfAttention: {heads: 4}`; …",
    ),
    "bilinear": ([{"Bilinear": [4, 2]}], FLAT, ".0: Bilinear needs a further input (input2), …`_target_: mine.Block`"),
    "unpool": ([{"MaxUnpool2d": 2}], CUBE, ".0: MaxUnpool2d needs a further input (indices), …"),
    "from-a-module": (
        ["TransformerEncoder"],
        (3, 4),
        "…made from a module (encoder_layer); write `Repeat: [4, [{TransformerEncoderLayer: {nhead: 4}}]]`",
    ),
    "embedding": ([{"Embedding": [4, 2]}], FLAT, ".0: Embedding takes whole numbers, and what comes in is float32; …"),
    "select-alone": (
        [{"Select": "a"}],
        FLAT,
        ".0: no input is called 'a'; the data give one input, whose name is input; …",
    ),
    "mask-alone": (
        [{"Pool": {"over": 1, "mask": "m"}}],
        (3, 4),
        ".0: no input is called 'm'; …; write `mask: input`, or leave it out",
    ),
    "pool-how": ([{"Pool": {"over": 1, "how": "min"}}], (3, 4), ".0.Pool.how is 'min'; Pool takes mean or max or …"),
    "pool-batch": ([{"Pool": 0}], (3, 4), ".0: Pool cannot take (3, 4): it changes the batch dimension…"),
    "from-another-module": (["DataParallel"], FLAT, "…made from a module (module); write `_target_: torch.nn.…"),
    "dimension": (["Flatten", {"Softmax": 3}], CUBE, ".1: Softmax cannot take (192,): Dimension out of range …"),
    "padding": (
        [{"Conv2d": {"out_channels": 2, "kernel_size": 3, "padding": -1}}],
        CUBE,
        ".0: Conv2d has padding=-1; it takes 0 or more",
    ),
    "stride": ([{"ConvTranspose2d": [2, 3, 0]}], CUBE, ".0: ConvTranspose2d has stride=0; it takes 1 or more"),
    "pair": (
        [{"Conv1d": {"out_channels": 2, "kernel_size": [1, 2]}}],
        (3, 8),
        "….kernel_size is [1, 2]; …",
    ),
    "endless": ([{"Repeat": [10**9, ["ReLU"]]}], FLAT, "….Repeat: Repeat would make 1,000,000,000 layers …100,000"),
    "endless-inside": (
        [{"Repeat": [10**5, [{"Repeat": [10**5, []]}]]}],
        FLAT,
        "….Repeat.1.0.Repeat: Repeat would make 10,000,000,000 layers …",
    ),
    "endless-layers": ([{"LSTM": {"hidden_size": 2, "num_layers": 10**9}}], (3, 4), "….num_layers is 1000000000; …"),
    "further-input": (
        [lambda: nn.Bilinear(4, 4, 2)],
        FLAT,
        ".0: Bilinear cannot take (4,): it needs a further …",
    ),
    "tuple": (
        [lambda: TwoOutputs(4, 2)],
        FLAT,
        ".0: TwoOutputs cannot take (4,): it returns dict where a tensor is expected; …",
    ),
    "inner-size": (
        [lambda: nn.Sequential(nn.Flatten(), nn.Linear(5, 2))],
        CUBE,
        ".0: Sequential cannot take (3, 8, 8): network.layers.0.1: Linear has in_features=5, what comes in is (192,)",
    ),
    "channels": (
        [lambda: nn.Sequential(nn.Conv2d(1, 2, 3))],
        CUBE,
        "…Conv2d has in_channels=1, …as in `layers: [{Conv2d: [1, 1]}, {_target_: …}]`",
    ),
    "written-text": (
        [{"Linear": {"in_features": "4", "out_features": 3}}],
        FLAT,
        "…in_features is '4'; Linear takes int",
    ),
}


@pytest.mark.parametrize(("entries", "shape", "message"), ERRORS.values(), ids=list(ERRORS))
def test_every_refusal_names_the_place_and_the_way_out(entries: Any, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        plan(entries, shape)
    pattern = ".*".join(map(re.escape, f"network.layers{message}".split("…")))
    assert re.fullmatch(pattern, str(caught.value))


def test_lists_mean_in_a_recorded_run_what_they_meant() -> None:
    entries = [{"Conv2d": [3, 2, 1]}, {"GroupNorm": [3, 3]}]
    with pytest.raises(RequestError):
        plan(entries, CUBE)
    network: Any = plan(entries, CUBE, recorded=True).build()
    assert (network[0].out_channels, network[0].kernel_size, network[1].eps) == (3, (2, 2), 3)


def test_layers_that_compute_with_values_are_planned() -> None:
    attention = {"TransformerEncoderLayer": {"d_model": 4, "nhead": 2, "dim_feedforward": 8}}
    network = plan([attention, {"BatchNorm1d": {"momentum": None}}, {"Identity": [1, 2, 3]}], (3, 4)).build()
    assert network(torch.rand(5, 3, 4)).shape == (5, 3, 4)
    assert network(torch.rand(5, 3, 4).requires_grad_()).grad_fn is not None


class WithAuxiliary(nn.Linear):
    Outputs = namedtuple("Outputs", ["logits", "aux_logits"])

    def forward(self, x: Tensor) -> Any:
        return self.Outputs(super().forward(x), x)


def test_a_whole_network_returns_one_tensor() -> None:
    with pytest.raises(RequestError, match="it returns Outputs where a tensor is expected; set aux_logits=false"):
        plan_module(lambda: WithAuxiliary(4, 2), FLAT)


class Lazy(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(3))


def test_the_weights_of_lazy_modules_are_those_after_the_first_batch() -> None:
    planned = plan_module(Lazy, CUBE)
    torch.manual_seed(3)
    network = planned.build()
    torch.manual_seed(3)
    expected: Any = Lazy()
    expected(torch.zeros(2, *CUBE))
    expected[1].reset_running_stats()
    assert same_weights(network, expected)
    assert network.training
    assert parameters_add_up(planned)


def test_a_large_network_is_refused_before_its_weights_are_drawn() -> None:
    def make() -> nn.Module:
        assert torch.empty(()).is_meta
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 9, 300_000))

    with pytest.raises(RequestError, match=r"Linear has in_features=216, what comes in is \(192,\)"):
        plan_module(make, CUBE)


def test_recurrent_layers_stand_in_composites() -> None:
    entries = [{"Residual": [{"LSTM": 4}]}, {"Concat": {"layers": [{"GRU": 3}, "ReLU", None], "dim": 2}}, {"RNN": 5}]
    network: Any = plan(entries, (5, 4)).build()
    x = torch.rand(3, 5, 4)
    added = network[0].layers(x)[0] + x
    joined = torch.cat([network[1].get_submodule("0")(added)[0], added.relu()], 2)
    assert torch.equal(network(x), network[2](joined)[0])


@pytest.fixture
def pretrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Weights of squeezenet1_1 as if they had been downloaded, and the addresses of all weights that are read."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = Path(SqueezeNet1_1_Weights.DEFAULT.url).name
    path = tmp_path / "hub" / "checkpoints" / name
    path.parent.mkdir(parents=True)
    torch.save(squeezenet1_1().state_dict(), path)
    load, read = torchvision.models._api.load_state_dict_from_url, list[str]()

    def counted(url: str, *given: Any, **more: Any) -> Any:
        read.append(url)
        return load(url, *given, **more)

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", counted)
    return read


def test_planning_does_not_read_pretrained_weights(pretrained: list[str], tmp_path: Path) -> None:
    def make() -> nn.Module:
        network: nn.Module = squeezenet1_1(weights=SqueezeNet1_1_Weights.DEFAULT)
        return network

    [file] = tmp_path.rglob("*.pth")
    for planned in (plan_module(make, (3, 64, 64)), plan([make], (3, 64, 64))):
        outline = planned.outline()
        assert not pretrained
        network = planned.build()
        assert pretrained.pop() == SqueezeNet1_1_Weights.DEFAULT.url
        assert [value.shape for value in outline.parameters()] == [value.shape for value in network.parameters()]
        pairs = zip(network.state_dict().values(), torch.load(file).values(), strict=True)
        assert all(torch.equal(value, saved) for value, saved in pairs)


def test_planning_leaves_a_given_module_and_the_random_numbers_alone() -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.rand(3)[0].item()

    given = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    before, state = {name: value.clone() for name, value in given.state_dict().items()}, torch.get_rng_state()
    planned = plan([given, Noisy], (4,))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in given.state_dict().items())
    assert planned.build().get_submodule("0") is given


@pytest.mark.slow
def test_damaged_pretrained_weights_are_refused(lamella: Lamella, pretrained: list[str], tmp_path: Path) -> None:
    [file] = tmp_path.rglob("*.pth")
    file.write_bytes(file.read_bytes()[:1000])
    layers = "[{Conv2d: [3,1]},{_target_: torchvision.models.squeezenet1_1,weights: DEFAULT},{Linear: 10}]"
    result = lamella("train", "network=linear", f"network.layers={layers}", "visuals=none")
    assert result.status == 2
    assert result.err.startswith("error: network")
    assert len(pretrained) == 1
    assert not Path("outputs").exists()
