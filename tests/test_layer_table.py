"""docs/layers.md: every class of torch.nn as an entry, or what to write instead.

LAMELLA_WRITE_DOCS=1 writes the table into the page.
"""

import json
import os
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lamella.errors import RequestError
from lamella.network.plan import plan

PAGE = Path(__file__).parents[1] / "docs" / "layers.md"
SHAPES = {"1d": (8, 16), "2d": (8, 16, 16), "3d": (8, 8, 8, 8)}
OTHERS: list[tuple[int, ...]] = [(8,), (16, 8), (8, 16, 16)]
HEAD = [
    "| class of torch.nn | how to write it | samples that come in and go out, or what to write instead |",
    "| --- | --- | --- |",
]
# What is tried as the argument of a class, in this order, where it is not in EXAMPLES.
ARGUMENTS: list[object] = [None, 2, [8, 3]]
# By class: its argument, and a shape where the others do not suit.
EXAMPLES: dict[str, tuple[object, tuple[int, ...] | None]] = {
    "ConstantPad1d": ([2, 0.5], None),
    "ConstantPad2d": ([2, 0.5], None),
    "ConstantPad3d": ([2, 0.5], None),
    "Embedding": ([1000, 8], (16,)),
    "EmbeddingBag": ([1000, 8], (16,)),
    "Fold": ({"output_size": [8, 8], "kernel_size": 2, "stride": 2}, (32, 16)),
    "FractionalMaxPool2d": ({"kernel_size": 2, "output_size": 8}, None),
    "FractionalMaxPool3d": ({"kernel_size": 2, "output_size": 4}, None),
    "GRU": (8, (16, 8)),
    "GRUCell": (8, (8,)),
    "LPPool1d": ([2, 2], None),
    "LPPool2d": ([2, 2], None),
    "LPPool3d": ([2, 2], None),
    "LSTM": (8, (16, 8)),
    "LSTMCell": (8, (8,)),
    "RNN": (8, (16, 8)),
    "RNNCell": (8, (8,)),
    "GLU": ({"dim": 1}, None),
    "Linear": (8, (8,)),
    "LogSoftmax": (1, None),
    "Softmax": (1, None),
    "Softmin": (1, None),
    "Sequential": (["ReLU"], None),
    "Threshold": ([0.1, 0.0], None),
    "TransformerEncoderLayer": ({"nhead": 2, "causal": True}, (16, 8)),
    "Unflatten": ([1, [2, 4]], None),
    "Upsample": ({"scale_factor": 2}, (8, 16, 16)),
    "UpsamplingBilinear2d": ({"scale_factor": 2}, None),
    "UpsamplingNearest2d": ({"scale_factor": 2}, None),
}


def classes() -> list[str]:
    """Return the names of all modules in torch.nn."""
    found = {name: getattr(nn, name) for name in dir(nn)}
    return [name for name, value in found.items() if isinstance(value, type) and issubclass(value, nn.Module)]


def tried(name: str, argument: object, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that a layer gives, after a forward and a backward pass. Raises RequestError."""
    dtype = torch.int64 if name.startswith("Embedding") else torch.float32
    planned = plan([name if argument is None else {name: argument}], shape, dtype=dtype)
    torch.manual_seed(0)
    inputs = torch.rand(2, *shape).to(dtype)
    output = planned.build()(inputs.requires_grad_(dtype.is_floating_point))
    assert output.shape == (2, *planned.output)
    assert output.requires_grad or not output.is_floating_point()
    return planned.output


def row(name: str) -> str:
    """Return the line about a class. Raises AssertionError for one that neither works nor says what to write."""
    argument, shape = EXAMPLES.get(name, (None, None))
    shapes = [shape] if shape else [SHAPES[name[-2:]]] if name[-2:] in SHAPES else OTHERS
    arguments = [argument] if name in EXAMPLES else ARGUMENTS
    refused = set()
    for given in arguments:
        for sample in shapes:
            try:
                output = tried(name, given, sample)
            except RequestError as error:
                refused.add(re.sub(r"^network\.layers\.0[\w.]*: ", "", str(error)))
                continue
            text = name if given is None else f"{name}: {json.dumps(given)}".replace('"', "")
            return f"| {name} | `- {text}` | {sample} → {output} |"
    [message] = refused  # the same for all arguments, because it is about the class
    assert "\n" not in message
    assert re.search(r"`|write|loss\._target_=", message), message
    return f"| {name} | no entry | {message} |"


@pytest.mark.slow(1)
def test_every_class_of_torch_is_an_entry_or_says_what_to_write() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about even kernels and nested tensors
        rows = {name: row(name) for name in classes()}
    works = [name for name, line in rows.items() if "| no entry |" not in line]
    assert len(works) > 100
    version = ".".join(torch.__version__.split(".")[:2])
    if os.environ.get("LAMELLA_WRITE_DOCS") == "1":
        table = "\n".join([*HEAD, *rows.values()])
        page = re.sub(r"(^\|.*\n)+", lambda _: f"{table}\n", PAGE.read_text(), count=1, flags=re.MULTILINE)
        PAGE.write_text(re.sub(r"torch \d+\.\d+", f"torch {version}", page))
    shown: dict[str, Any] = {
        line.split(" ")[1]: line for line in PAGE.read_text().splitlines() if line.startswith("| ")
    }
    # Another version of torch has other classes, and those that both have are written alike.
    assert {name: line for name, line in rows.items() if name in shown} == {
        name: line for name, line in shown.items() if name in rows
    }
    if f"torch {version}" in PAGE.read_text():
        assert set(rows) == set(shown) - {"class", "---"}
