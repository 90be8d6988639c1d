"""The shape trace: what each layer does to a batch that passes through, in the order of execution."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lamella.network.layers import passed_on
from lamella.network.leaves import leaf_hooks
from lamella.network.shape_inference import sample_shape


@dataclass(frozen=True)
class LayerRow:
    """What one layer did to the batch. Shapes and multiply-adds are of one sample, without the batch dimension."""

    place: str
    layer: str
    input: tuple[int, ...]
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int


class Trace:
    """Runs modules and keeps a row for each layer; what runs within `with` is counted."""

    def __init__(self) -> None:
        self.rows: list[LayerRow] = []
        self._counter: Any = FlopCounterMode(display=False)

    def __enter__(self) -> None:
        self._counter.__enter__()

    def __exit__(self, *raised: Any) -> None:
        self._counter.__exit__(*raised)

    def whole(self, module: nn.Module, x: Tensor, place: str) -> Tensor:
        """Run a module that is one layer: one row."""
        before = self._counter.get_total_flops()
        y = _run(module, x)
        self._add(place, type(module).__name__, x, y, list(module.parameters()), before, len(x))
        return y

    def leaves(self, module: nn.Module, x: Tensor, place: str, tuples: bool = True) -> Tensor:
        """Run a module that somebody else wrote: one row for each of its leaves, and one for what is in none.

        tuples: whether it may give one, of which the first item is passed on.
        """
        before: dict[str, int] = {}
        start, at_first = len(self.rows), self._counter.get_total_flops()
        left = dict.fromkeys(module.parameters())  # a layer that runs twice counts its parameters once

        def enter(name: str, leaf: nn.Module, given: Tensor) -> None:
            before[name] = self._counter.get_total_flops()

        def leave(name: str, leaf: nn.Module, given: Tensor, output: Tensor) -> None:
            own = [value for value in leaf.parameters() if value in left]
            for value in own:
                del left[value]
            where = f"{place}.{name}" if name else place
            self._add(where, type(leaf).__name__, given, output, own, before[name], len(x))

        try:
            with leaf_hooks(module, enter, leave):
                y = _run(module, x, tuples)
        except Exception:
            del self.rows[start:]
            raise
        # What modules with children hold and do themselves, as attention does.
        counted = 2 * len(x) * sum(row.multiply_adds for row in self.rows[start:])
        if left or self._counter.get_total_flops() - at_first > counted:
            self._add(place, f"{type(module).__name__}, other", x, y, list(left), at_first + counted, len(x))
        return y

    def _add(
        self, place: str, layer: str, x: Tensor, y: Tensor, parameters: list[nn.Parameter], before: int, batch: int
    ) -> None:
        # One multiply-add is two operations.
        multiply_adds = (self._counter.get_total_flops() - before) // (2 * batch)
        count = sum(parameter.numel() for parameter in parameters)
        self.rows.append(LayerRow(place, layer, sample_shape(x), sample_shape(y), count, multiply_adds))


def _run(module: nn.Module, x: Tensor, tuples: bool = True) -> Tensor:
    with torch.no_grad():
        output = module(x)
        return batch_kept(passed_on(output) if tuples else output, x)


def batch_kept(y: Any, x: Tensor) -> Tensor:
    """`y`, if it is a batch of as many samples as `x`. Raises TypeError or ValueError."""
    if not isinstance(y, Tensor):
        raise TypeError(f"it gives a {type(y).__name__}, where a tensor is expected")
    if y.dim() < 1 or len(y) != len(x):
        raise ValueError("it changes the batch dimension, which is the first")
    return y


def layer_table(rows: Sequence[Any], batch: int, width: int = 80) -> str:
    """The shape trace as a table, with the shapes of a batch; where it is wider than `width`, in two lines a layer."""
    totals = sum(row.parameters for row in rows), sum(row.multiply_adds for row in rows)
    lines: list[list[str]] = [["layer", "class", "input", "output", "parameters", "mult-adds"]]
    for row in rows:
        shapes = [str((batch, *sample)) for sample in (row.input, row.output)]
        place = row.place.removeprefix("network.layers.")
        lines.append([place, row.layer, *shapes, f"{row.parameters:,}", f"{row.multiply_adds:,}"])
    lines.append(["total", "", "", "", *(f"{total:,}" for total in totals)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    two = sum(widths) + 2 * (len(widths) - 1) > width
    aligned = []
    for line in lines:
        cells = [*map(str.ljust, line[:4], widths), *map(str.rjust, line[4:], widths[4:])]
        aligned += (
            [f"{line[0]}  {line[1]}".rstrip(), "    " + "  ".join(cells[2:])] if two else ["  ".join(cells).rstrip()]
        )
    return "\n".join(aligned)
