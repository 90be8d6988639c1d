"""Lamella's own layers, whole numbers and named inputs: what they compute, and every refusal."""

import copy
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from lamella.errors import RequestError
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
        return (self.embedding(tokens) * mask[..., None]).mean(1)


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


def test_named_inputs_reach_every_branch() -> None:
    entries = [{"Select": "tokens"}, {"Embedding": [256, 8]}, {"Repeat": [1, [{"Concat": BRANCHES}]]}, {"Linear": 3}]
    planned = plan(entries, SHAPES, dtype=DTYPES)
    assert (planned.trace[0].layer, planned.trace[0].input, planned.trace[0].output) == ("Select", (16,), (16,))
    network: Any = planned.build()
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
}  # fmt: skip


@pytest.mark.parametrize(("entries", "shape", "dtype", "message"), REFUSED.values(), ids=list(REFUSED))
def test_inputs_that_do_not_suit_are_refused(entries: Any, shape: Any, dtype: Any, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        plan(entries, shape, dtype=dtype)
    pattern = ".*".join(map(re.escape, f"network.layers{message}".split("…")))
    assert re.fullmatch(pattern, str(caught.value)), caught.value
