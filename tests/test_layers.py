"""Lamella's own layers, whole numbers and named inputs: what they compute, and every refusal."""

import copy
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import Lamella
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import init

from lamella.config.guard import register_resolvers
from lamella.config.interpolations import READ
from lamella.errors import RequestError
from lamella.network.leaves import leaf_hooks
from lamella.network.plan import plan, plan_module

SHAPES = {"tokens": (16,), "mask": (16,)}
DTYPES = {"tokens": torch.int64, "mask": torch.bool}
LENGTHS = (3, 16, 0, 5)
INPUTS = {"tokens": torch.arange(64).reshape(4, 16), "mask": torch.arange(16) < torch.tensor(LENGTHS)[:, None]}


class ByKeyword(nn.Module):
    """A network of a user's own that takes several inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, 8)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        output: Tensor = (self.embedding(tokens) * mask[..., None]).mean(1)
        return output


def test_whole_numbers_begin_with_an_embedding() -> None:
    planned = plan([{"Embedding": [256, 8]}, {"Pool": 1}, {"Linear": 3}], (16,), dtype=torch.int64)
    assert [(row.layer, row.input, row.output) for row in planned.trace] == [
        ("Embedding", (16,), (16, 8)),
        ("Pool", (16, 8), (8,)),
        ("Linear", (8,), (3,)),
    ]
    network: Any = planned.build()
    tokens = INPUTS["tokens"]
    assert torch.equal(network(tokens), network[2](network[0](tokens).mean(1)))
    zeros = planned.zeros(2)
    assert isinstance(zeros, Tensor)
    assert (zeros.shape, zeros.dtype) == ((2, 16), torch.int64)


def test_a_number_for_each_sample_is_embedded() -> None:
    planned = plan([{"Embedding": [10, 4]}], (), dtype=torch.int64)
    assert planned.build()(torch.tensor([1, 2, 3])).shape == (3, *planned.output) == (3, 4)


POOLED = {"mean": lambda x: x.mean(0), "max": lambda x: x.amax(0), "first": lambda x: x[0], "last": lambda x: x[-1]}


@pytest.mark.parametrize("how", POOLED)
def test_pool_counts_what_the_mask_counts(how: str) -> None:
    entries = [{"Select": "tokens"}, {"Embedding": [256, 8]}, {"Pool": {"over": 1, "how": how, "mask": "mask"}}]
    network: Any = plan(entries, SHAPES, dtype=DTYPES).build()
    values, pooled = network[1](INPUTS["tokens"]), network(INPUTS)
    for sample, length in enumerate(LENGTHS):
        expected = POOLED[how](values[sample, :length]) if length else torch.zeros(8)
        torch.testing.assert_close(pooled[sample], expected)
    whole: Any = plan([{"Pool": {"over": 2, "how": how}}], (3, 5)).build()
    x = torch.rand(2, 3, 5)
    torch.testing.assert_close(whole(x), torch.stack([POOLED[how](row.T) for row in x]))


BRANCHES = [{"Pool": {"over": 1, "mask": "mask"}}, [{"Select": "mask"}, lambda: ToFloat()]]


class ToFloat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.float()


def leaf_runs(network: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Return the input and the output of each leaf that runs."""
    runs: list[tuple[Tensor, Tensor]] = []
    with leaf_hooks(network, lambda *_: None, lambda name, leaf, given, output: runs.append((given, output))):
        network(INPUTS)
    return runs


def test_named_inputs_reach_every_branch() -> None:
    entries = [{"Select": "tokens"}, {"Embedding": [256, 8]}, {"Repeat": [1, [{"Concat": BRANCHES}]]}, {"Linear": 3}]
    planned = plan(entries, SHAPES, dtype=DTYPES)
    assert (planned.trace[0].layer, planned.trace[0].input, planned.trace[0].output) == ("Select", (16,), (16,))
    network: Any = planned.build()
    assert [(given.shape[1:], output.shape[1:]) for given, output in leaf_runs(network)] == [
        (row.input, row.output) for row in planned.trace
    ]
    values = network[1](INPUTS["tokens"]) * INPUTS["mask"][..., None]
    mean = values.sum(1) / torch.tensor(LENGTHS).clamp(min=1)[:, None]
    expected = network[3](torch.cat([mean, INPUTS["mask"].float()], 1))
    torch.testing.assert_close(network(INPUTS), expected)
    torch.testing.assert_close(copy.deepcopy(network)(INPUTS), expected)
    stacked = {name: torch.stack([value, value]) for name, value in network.state_dict().items()}
    outputs = vmap(lambda state, inputs: functional_call(network, state, (inputs,)), (0, None))(stacked, INPUTS)
    torch.testing.assert_close(outputs, torch.stack([expected, expected]))


def test_a_whole_module_takes_named_inputs_by_keyword() -> None:
    planned = plan_module(ByKeyword, SHAPES, dtype=DTYPES)
    assert [(row.place, row.input, row.output) for row in planned.trace] == [("network.embedding", (16,), (16, 8))]
    network = planned.build()
    assert torch.equal(network(INPUTS), network(**INPUTS))
    assert copy.deepcopy(network)(planned.zeros(2)).shape == (2, *planned.output) == (2, 8)
    assert list(network.state_dict()) == ["embedding.weight"]
    entry: Any = plan([ByKeyword, {"Linear": 3}], SHAPES, dtype=DTYPES).build()
    assert torch.equal(entry(INPUTS), entry[1](entry[0](**INPUTS)))


def attend(layer: Any, x: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """Self-attention of one sample (T, C) with two heads, written out."""
    length = len(x)
    query, key, value = layer.qkv(x).view(length, 3, 2, -1).permute(1, 2, 0, 3)
    scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
    hidden = torch.zeros(length, length, dtype=torch.bool) if mask is None else ~mask.expand(length, length)
    if causal:
        hidden = hidden | torch.ones(length, length, dtype=torch.bool).triu(1)
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    output: Tensor = layer.proj((weights @ value).transpose(0, 1).flatten(1))
    return output


SEQUENCE = (5, 4)
LAYERS: dict[str, tuple[Any, tuple[int, ...], Callable[[Any, Tensor], Tensor]]] = {
    "permute": ({"Permute": [0, 2, 1]}, SEQUENCE, lambda m, x: x.transpose(1, 2)),
    "reshape": ({"Reshape": [2, -1]}, SEQUENCE, lambda m, x: x.view(3, 2, 10)),
    "pad": (
        {"Pad": {"dim": 1, "after": 2, "value": 7.0}},
        SEQUENCE,
        lambda m, x: torch.cat([x, x.new_full((3, 2, 4), 7)], 1),
    ),
    "pad-last": ({"Pad": {"dim": -1, "before": 1}}, SEQUENCE, lambda m, x: torch.cat([x.new_zeros(3, 5, 1), x], 2)),
    "parameter": (
        {"Parameter": {"shape": [2, 4], "init": "normal"}},
        SEQUENCE,
        lambda m, x: m[0].value.expand(3, 2, 4),
    ),
    "parameter-list": ({"Parameter": [6]}, SEQUENCE, lambda m, x: torch.zeros(3, 6)),
    "scale": ({"Scale": 0.5}, SEQUENCE, lambda m, x: x / 2),
    "pool": ({"Pool": 1}, SEQUENCE, lambda m, x: x.mean(1)),
    "pool-list": ({"Pool": [2, "max"]}, SEQUENCE, lambda m, x: x.amax(2)),
    "add": (
        {"Add": [[], {"Linear": 4}, {"Parameter": [4]}]},
        (4,),
        lambda m, x: x + m[0].get_submodule("1")(x) + m[0].get_submodule("2")(x),
    ),
    "multiply": ({"Multiply": [[], [{"Linear": 1}, "Sigmoid"]]}, SEQUENCE, lambda m, x: x * m[0].get_submodule("1")(x)),
    "multiply-named": ({"Multiply": {"a": "ReLU", "b": "Tanh"}}, (4,), lambda m, x: x.relu() * x.tanh()),
    "positions": ("Positions", SEQUENCE, lambda m, x: x + m[0].weight),
    "class-token": ("ClassToken", SEQUENCE, lambda m, x: torch.cat([m[0].weight.expand(3, 1, 4), x], 1)),
    "attention": ({"SelfAttention": 2}, SEQUENCE, lambda m, x: torch.stack([attend(m[0], y) for y in x])),
    "causal": (
        {"SelfAttention": {"heads": 2, "causal": True}},
        SEQUENCE,
        lambda m, x: torch.stack([attend(m[0], y, causal=True) for y in x]),
    ),
    "take-hidden": (
        {"GRU": {"hidden_size": 6, "num_layers": 2, "take": 1}},
        SEQUENCE,
        lambda m, x: m[0].layer(x)[1].transpose(0, 1),
    ),
    "take-cell": (
        {"LSTM": {"hidden_size": 6, "take": [1, 1]}},
        SEQUENCE,
        lambda m, x: m[0].layer(x)[1][1].transpose(0, 1),
    ),
    "take-output": ({"RNN": {"hidden_size": 6, "take": 0}}, SEQUENCE, lambda m, x: m[0].layer(x)[0]),
    "take-indices": (
        {"MaxPool1d": {"kernel_size": 2, "return_indices": True, "take": 1}},
        SEQUENCE,
        lambda m, x: nn.functional.max_pool1d(x, 2, return_indices=True)[1],
    ),
    "in": (
        {"Conv1d": {"out_channels": "in", "kernel_size": 3, "groups": "in"}},
        SEQUENCE,
        lambda m, x: nn.functional.conv1d(x, m[0].weight, m[0].bias, groups=5),
    ),
    "in-list": (
        [{"Conv1d": ["in", 1]}, {"Linear": "in"}, {"PReLU": "in"}],
        SEQUENCE,
        lambda m, x: m[0][2](m[0][1](m[0][0](x))),
    ),
    "target": ({"_target_": "torch.nn.Linear", "in_features": 4, "out_features": 2}, (4,), lambda m, x: m[0](x)),
    "target-inside": (
        {"Repeat": [2, [{"_target_": "torch.nn.Linear", "in_features": 4, "out_features": 4}]]},
        (4,),
        lambda m, x: m[0][1](m[0][0](x)),
    ),
}


@pytest.mark.filterwarnings("ignore:The tensor attributes self.0.layer._flat_weights")
@pytest.mark.parametrize(("entry", "shape", "by_hand"), LAYERS.values(), ids=list(LAYERS))
def test_a_layer_computes_what_is_computed_by_hand(
    entry: Any, shape: tuple[int, ...], by_hand: Callable[[Any, Tensor], Tensor]
) -> None:
    planned = plan([entry], shape)
    network = planned.build().eval()
    x = torch.randn(3, *shape)
    output = network(x)
    torch.testing.assert_close(output, by_hand(network, x))
    assert output.shape == (3, *planned.output)
    assert sum(row.parameters for row in planned.trace) == sum(value.numel() for value in network.parameters())
    exported = torch.export.export(network, (x,))
    torch.testing.assert_close(exported.module()(x), output)


def test_sines_and_cosines_are_those_of_the_paper() -> None:
    network = plan([{"Positions": "sinusoidal"}], (9, 6)).build()
    added = network(torch.zeros(1, 9, 6))[0]
    for position in range(9):
        for number in range(3):
            angle = torch.tensor(position / 10000 ** (2 * number / 6))
            expected = torch.stack([angle.sin(), angle.cos()])
            torch.testing.assert_close(added[position, 2 * number : 2 * number + 2], expected)
    assert not list(network.parameters())
    assert plan([{"Positions": "sinusoidal"}], (3, 5)).build()(torch.zeros(1, 2, 5)).shape == (1, 2, 5)


def test_attention_reads_what_the_mask_counts() -> None:
    shapes, x = {"x": SEQUENCE, "mask": (5,)}, torch.randn(3, *SEQUENCE)
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
    for causal in (False, True):
        entries = [{"Select": "x"}, {"SelfAttention": {"heads": 2, "mask": "mask", "causal": causal}}]
        network: Any = plan(entries, shapes).build()
        output = network({"x": x, "mask": mask})
        for sample in range(3):
            counted = mask[sample].bool() if sample < 2 else None  # where none counts, all are read
            torch.testing.assert_close(output[sample], attend(network[1], x[sample], counted, causal))
        dropout = [{"Select": "x"}, {"SelfAttention": {"heads": 2, "dropout": 0.5}}]
        noisy = plan(dropout, shapes).build()
        assert not torch.equal(noisy({"x": x, "mask": mask}), noisy({"x": x, "mask": mask}))
        assert torch.equal(noisy.eval()({"x": x, "mask": mask}), noisy({"x": x, "mask": mask}))


def test_an_encoder_layer_hides_later_and_padded_positions() -> None:
    options = {"nhead": 2, "dim_feedforward": 8, "dropout": 0.0, "causal": True, "mask": "mask"}
    entries = [{"Select": "x"}, {"TransformerEncoderLayer": options}]
    network: Any = plan(entries, {"x": SEQUENCE, "mask": (5,)}).build()
    torch.manual_seed(3)
    expected = nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True)
    expected.load_state_dict(network[1].state_dict())
    x, mask = torch.randn(2, *SEQUENCE), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    later, padded = (
        nn.Transformer.generate_square_subsequent_mask(5),
        torch.zeros(2, 5).masked_fill(mask == 0, -torch.inf),
    )
    by_hand = expected(x, later, padded, is_causal=True)
    torch.testing.assert_close(network({"x": x, "mask": mask}), by_hand)
    torch.testing.assert_close(network.eval()({"x": x, "mask": mask}), by_hand)


def test_lists_of_a_recorded_encoder_layer_begin_with_its_size() -> None:
    [layer] = plan([{"TransformerEncoderLayer": [4, 2, 8]}], SEQUENCE, recorded=True).build().children()
    assert (layer.self_attn.num_heads, layer.linear1.out_features) == (2, 8)  # type: ignore[union-attr]


ARITHMETIC = {
    "${mul:${width},2}": 24,
    "${mul:${width},0.5}": 6.0,
    "${div:${width},4}": 3,
    "${div:${width},5}": 2.4,
    "${add:${width},-1,3}": 14,
    "${mul:${div:${width},4},${add:1,1}}": 6,
}


@pytest.mark.parametrize(("text", "value"), ARITHMETIC.items())
def test_a_config_computes_numbers(text: str, value: float) -> None:
    register_resolvers()
    result = OmegaConf.create({"width": 12, "result": text}).result
    assert (result, type(result)) == (value, type(value))
    read = READ.findall(text)
    assert "width" in read
    assert not {"mul", "div", "add"} & set(read)  # which are no keys


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "${mul:${network.name},2}",
            "mul: it takes two numbers or more, as in ${mul:${network.width},2}, and not 'MLP'",
        ),
        ("${div:1,0}", "div: 1 cannot be divided by 0"),
        ("${div:1,2,3}", "div: it takes two numbers, as in ${div:${network.width},2}, and not 1, 2, 3"),
        ("${add:3}", "add: it takes two numbers or more"),
        ("${div:128,5}", "network.layers.1.Repeat.layers.0.Linear.out_features is 25.6; Linear takes int"),
    ],
)
def test_wrong_arithmetic_is_refused(lamella: Lamella, text: str, message: str) -> None:
    result = lamella("inspect", f'network.width="{text}"')
    assert result.status == 2
    assert message in result.err


def test_init_is_a_key_of_the_network(lamella: Lamella) -> None:
    result = lamella("inspect", "network=linear", "+network.init=zeros", "--json")
    assert result.status == 0, result.err
    weight, bias = json.loads(result.out)["parameters"]
    assert set(weight["first"]) == {0.0}
    assert set(bias["first"]) != {0.0}
    wrong = lamella("inspect", "network=linear", "+network.init=hee")
    assert (wrong.status, wrong.err.splitlines()[0]) == (2, "error: network.init is 'hee'; did you mean he?")


def test_inspect_names_the_modules_of_a_network_with_attention(lamella: Lamella) -> None:
    result = lamella("inspect", "network=vit", "network.depth=1", "--json")
    assert result.status == 0, result.err
    names = [layer["module"] for layer in json.loads(result.out)["layers"]]
    assert names == [*(f"patches.{n}" for n in range(5)), "blocks.0.0", *(f"head.{n}" for n in range(3))]


STACK: list[Any] = [{"Linear": 5}, "BatchNorm1d", {"Linear": 3}]
INITS: dict[str, tuple[Any, Callable[[Any], object]]] = {
    "word": ("he", lambda m: [init.kaiming_normal_(m[0].weight), init.kaiming_normal_(m[2].weight)]),
    "xavier": ("xavier", lambda m: [init.xavier_uniform_(m[0].weight), init.xavier_uniform_(m[2].weight)]),
    "zeros": ("zeros", lambda m: [init.zeros_(m[0].weight), init.zeros_(m[2].weight)]),
    "normal": ("normal", lambda m: [init.normal_(m[0].weight, std=0.02), init.normal_(m[2].weight, std=0.02)]),
    "function": ("orthogonal", lambda m: [init.orthogonal_(m[0].weight), init.orthogonal_(m[2].weight)]),
    "arguments": ({"normal": {"std": 1.0}}, lambda m: [init.normal_(m[0].weight), init.normal_(m[2].weight)]),
    "pattern": ({"*.weight": "he"}, lambda m: [init.kaiming_normal_(m[0].weight), init.kaiming_normal_(m[2].weight)]),
    "all": ({"*.bias": {"constant": {"val": 0.5}}}, lambda m: [init.constant_(m[n].bias, 0.5) for n in range(3)]),
    "two": (
        {"0.*": "zeros", "2.weight": "trunc_normal"},
        lambda m: [init.zeros_(m[0].weight), init.zeros_(m[0].bias), init.trunc_normal_(m[2].weight)],
    ),
}


@pytest.mark.parametrize(("how", "by_hand"), INITS.values(), ids=list(INITS))
def test_first_weights_are_those_of_torchs_functions(how: Any, by_hand: Callable[[Any], object]) -> None:
    planned = plan(STACK, (4,), init=how)
    torch.manual_seed(2)
    network = planned.build()
    torch.manual_seed(2)
    expected = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    by_hand(expected)
    for mine, theirs in zip(network.parameters(), expected.parameters(), strict=True):
        assert torch.equal(mine, theirs)


WRONG_INITS: dict[str, tuple[Any, str]] = {
    "word": ("hee", "network.init is 'hee'; did you mean he?"),
    "pattern": (
        {"*.wieght": "he"},
        "network.init: no parameter of two or more dimensions is called like '*.wieght'; …",
    ),
    "bias": ({"*.bias": "he"}, "network.init: no parameter of two or more dimensions is called like '*.bias'; …"),
    "name": ({"9.*": "zeros"}, "network.init: no parameter is called like '9.*'; …"),
    "argument": ({"*": {"normal": {"sd": 1}}}, "network.init.*.sd: normal has no such argument; did you mean std?"),
    "value": ({"*": {"normal": 1}}, "network.init.*.normal is 1; it takes arguments by name, as {std: 0.02}"),
    "number": (3, "network.init is 3; known: …"),
    "shape": ("dirac", "network.init: dirac: Only tensors with 3, 4, or 5 dimensions are supported"),
}


@pytest.mark.parametrize(("how", "message"), WRONG_INITS.values(), ids=list(WRONG_INITS))
def test_an_init_that_draws_nothing_is_refused(how: Any, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        plan(STACK, (4,), init=how)
    assert re.fullmatch(".*".join(map(re.escape, message.split("…"))), str(caught.value)), caught.value


TOKENS = {"Select": "tokens"}
REFUSED: dict[str, tuple[Any, Any, Any, str]] = {
    "floats": ([{"Linear": 3}], (4,), torch.int64, ".0: Linear cannot take (4,): it takes floats, and what comes in is"
               " int64; begin with `Embedding: [count, size]`"),
    "activation": (["GELU"], (4,), torch.int64, ".0: GELU cannot take (4,): it takes floats, …`Embedding: …"),
    "inner": ([lambda: nn.Sequential(nn.Linear(4, 3))], (4,), torch.int64, ".0: Sequential cannot take (4,): …0.0: it "
              "takes floats, …"),
    "embedding": ([{"Embedding": [3, 4]}], (4,), torch.float16, ".0: Embedding takes whole numbers, … is float16; …"),
    "mapping": ([{"Linear": 3}], SHAPES, DTYPES, ".0: Linear takes one tensor, and what comes in are the inputs "
                "tokens, mask; begin with `Select: tokens`"),
    "nothing": ([], SHAPES, DTYPES, ": the network takes one tensor, …; begin with `Select: tokens`"),
    "residual": ([{"Residual": [TOKENS]}], SHAPES, DTYPES, ".0.Residual: Residual takes one tensor, …"),
    "branch": ([{"Concat": [[]]}], SHAPES, DTYPES, ".0.Concat.0: Concat takes one tensor, …"),
    "name": ([{"Select": "token"}], SHAPES, DTYPES, ".0: no input is called 'token'; did you mean tokens?"),
    "no-name": (["Select"], SHAPES, DTYPES, ".0.Select: Select needs a value for 'name'"),
    "mask": ([TOKENS, {"Embedding": [4, 4]}, {"Pool": {"over": 2, "mask": "mask"}}], SHAPES, DTYPES,
             ".2: Pool cannot take (16, 4): its mask has 16 positions, and dimension 2 has 4"),
    "keywords": ([lambda: nn.Linear(3, 3)], SHAPES, DTYPES, ".0: Linear cannot take tokens (16,), mask (16,): the "
                 "inputs are tokens, mask, and its forward takes input"),
    "permute": ([{"Permute": [1, 0]}], SEQUENCE, torch.float32, ".0: Permute: its dims are [1, 0]; they name each "
                "dimension once, first 0, the batch: [0, 2, 1]"),
    "permute-number": ([{"Permute": 3}], SEQUENCE, torch.float32, ".0.Permute.dims is 3; Permute takes a list"),
    "reshape": ([{"Reshape": [3, -1]}], SEQUENCE, torch.float32, ".0: Reshape cannot take (5, 4): …"),
    "pad-batch": ([{"Pad": 0}], SEQUENCE, torch.float32, ".0: Pad: its dim is 0, the batch; …"),
    "pad-far": ([{"Pad": {"dim": 3}}], SEQUENCE, torch.float32, ".0: Pad cannot take (5, 4): its dim is 3, and …"),
    "pad-less": ([{"Pad": {"dim": 1, "after": -1}}], SEQUENCE, torch.float32, ".0: Pad has after=-1; …"),
    "add": ([{"Add": [[], {"Linear": 3}]}], (4,), torch.float32, ".0.Add: Add takes (4,) and combines (4,), (3,); …"),
    "add-nothing": ([{"Add": []}], (4,), torch.float32, ".0.Add: Add takes (4,) and combines nothing; …"),
    "parameter": ([{"Parameter": {"shape": [3], "init": "hee"}}], (4,), torch.float32, ".0: Parameter: init is 'hee…"),
    "sequence": (["Positions"], (4,), torch.float32, ".0: Positions expects (length, features), what comes in is (4,)"),
    "kind": ([{"Positions": "cos"}], SEQUENCE, torch.float32, ".0.Positions.kind is 'cos'; Positions takes learned…"),
    "heads": ([{"SelfAttention": 3}], SEQUENCE, torch.float32, ".0: SelfAttention: 4 features cannot be split …"),
    "no-heads": ([{"SelfAttention": {"heads": 0}}], SEQUENCE, torch.float32, ".0: SelfAttention has heads=0; …"),
    "attention-mask": (
        [TOKENS, {"Embedding": [9, 4]}, {"Permute": [0, 2, 1]}, {"SelfAttention": {"heads": 2, "mask": "mask"}}],
        SHAPES, DTYPES, ".3: SelfAttention cannot take (4, 16): its mask has 16 positions, and the sequence has 4"),
    "order": ([{"TransformerEncoderLayer": [4, 2]}], SEQUENCE, torch.float32,
              ".0: TransformerEncoderLayer: [4, 2] begins with …; write `TransformerEncoderLayer: {nhead: 2}`, …"),
    "take-tensor": ([{"Linear": {"out_features": 3, "take": 1}}], (4,), torch.float32,
                    ".0: Linear cannot take (4,): it gives one tensor; leave take out"),
    "take-far": ([{"GRU": {"hidden_size": 3, "take": 2}}], SEQUENCE, torch.float32,
                 ".0: GRU cannot take (5, 4): it gives 2 parts, which are numbered from 0; take is 2"),
    "take-tuple": ([{"LSTM": {"hidden_size": 3, "take": 1}}], SEQUENCE, torch.float32,
                   ".0: LSTM cannot take (5, 4): that part is a tuple; write take: [1, 0]"),
    "take-deep": ([{"LSTM": {"hidden_size": 3, "take": [1, 0, 0]}}], SEQUENCE, torch.float32,
                  ".0: LSTM cannot take (5, 4): that part is a tensor; write take: [1, 0]"),
    "take-name": ([{"GRU": {"hidden_size": 3, "take": "h"}}], SEQUENCE, torch.float32,
                  ".0.GRU.take is 'h'; it takes the number of a part from 0 on, or a list"),
    "target": ([["ReLU", {"_target_": "os.system"}]], (4,), torch.float32, ".0.1._target_ is 'os.system'; …"),
}  # fmt: skip


@pytest.mark.parametrize(("entries", "shape", "dtype", "message"), REFUSED.values(), ids=list(REFUSED))
def test_inputs_that_do_not_suit_are_refused(entries: Any, shape: Any, dtype: Any, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        plan(entries, shape, dtype=dtype)
    pattern = ".*".join(map(re.escape, f"network.layers{message}".split("…")))
    assert re.fullmatch(pattern, str(caught.value), re.DOTALL), caught.value
