"""Trace the shapes, parameters and multiply-adds of the layers that a batch passes through."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lamella.network.inputs import Inputs, Named, first_tensor, sample_shape, zeros_on_cpu
from lamella.network.layers import Take, call_layer
from lamella.network.leaves import leaf_hooks
from lamella.network.selecting import Select
from lamella.network.shape_inference import dtype_misfit

CHECKED = 2**22  # the number of values up to which a layer without parameters is also run on the CPU


@dataclass(frozen=True)
class LayerRow:
    """What one layer does to a batch.

    place: the config key of the layer. layer: its class. input, output: the shapes of one sample, without the batch
    dimension. parameters: the number of its parameters. multiply_adds: the number of multiply-adds for one sample.
    """

    place: str
    layer: str
    input: tuple[int, ...]
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int


class Trace:
    """Runs modules and keeps a row for each layer.

    named: the inputs of the network by name, on the meta device. rows: in the order of execution. running: the name of
    the leaf that runs, the leaf and its input; after an error, this is where it was raised. None outside of leaves.
    """

    def __init__(self, named: Named = None) -> None:
        self.named = named
        self.rows: list[LayerRow] = []
        self.running: tuple[str, nn.Module, Tensor] | None = None
        self._counter = FlopCounterMode(display=False)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the operations of what runs within the block."""
        with self._counter:
            yield

    def whole(self, module: nn.Module, x: Inputs, place: str) -> Tensor:
        """Return the output of a module that is a single layer, and add its row."""
        before, self.running = self._counter.get_total_flops(), None
        if isinstance(x, Tensor):
            _check_dtype(module, x)
        y, first = self._run(module, x), first_tensor(x)
        if first.is_meta and not list(module.parameters()) and max(first.numel(), y.numel()) < CHECKED:
            # The meta device accepts some arguments that fail with values, such as a dimension that does not exist.
            self._run(module, zeros_on_cpu(x))
        if isinstance(module, Select) and isinstance(x, Mapping):
            first = x[module.name]
        layer = module.layer if isinstance(module, Take) else module
        self._add(place, type(layer).__name__, first, y, list(module.parameters()), before, len(y))
        return y

    def leaves(self, module: nn.Module, x: Inputs, place: str, tuples: bool = True) -> Tensor:
        """Return the output of a module with parts, and add a row for each leaf, and one for what is in no leaf.

        tuples: whether the module may return a tuple, of which the first item is passed on. Raises Unsuitable
        where the output is no batch of the same size.
        """
        before: dict[str, int] = {}
        first, batch = first_tensor(x), len(first_tensor(x))
        first_row, flops_before = len(self.rows), self._counter.get_total_flops()
        uncounted = dict.fromkeys(module.parameters())  # a layer that runs twice counts its parameters once

        def where(name: str) -> str:
            return f"{place}.{name}" if name else place

        def enter(name: str, leaf: nn.Module, input: Tensor) -> None:
            before[name] = self._counter.get_total_flops()
            self.running = (where(name), leaf, input)
            _check_dtype(leaf, input)

        def leave(name: str, leaf: nn.Module, input: Tensor, output: Tensor) -> None:
            parameters = [value for value in leaf.parameters() if value in uncounted]
            for value in parameters:
                del uncounted[value]
            self.running = None
            self._add(where(name), type(leaf).__name__, input, output, parameters, before[name], batch)

        self.running = None
        try:
            with leaf_hooks(module, enter, leave):
                y = self._run(module, x, tuples)
        except Exception:
            del self.rows[first_row:]
            raise
        # Modules with children, such as attention, may have parameters and operations of their own.
        counted = 2 * batch * sum(row.multiply_adds for row in self.rows[first_row:])
        if uncounted or self._counter.get_total_flops() - flops_before > counted:
            title = f"{type(module).__name__}, other"
            self._add(place, title, first, y, list(uncounted), flops_before + counted, batch)
        return y

    def _add(
        self, place: str, layer: str, x: Tensor, y: Tensor, parameters: list[nn.Parameter], before: int, batch: int
    ) -> None:
        """Add the row of a layer that took `x` and returned `y`. before: the count of operations before it ran."""
        # One multiply-add is two operations.
        multiply_adds = (self._counter.get_total_flops() - before) // (2 * batch)
        count = sum(parameter.numel() for parameter in parameters)
        self.rows.append(LayerRow(place, layer, sample_shape(x), sample_shape(y), count, multiply_adds))

    def _run(self, module: nn.Module, x: Inputs, tuples: bool = True) -> Tensor:
        """Return the output of a module. tuples: as for `leaves`."""
        named = self.named if self.named is None or first_tensor(x).is_meta else zeros_on_cpu(self.named)
        assert named is None or isinstance(named, Mapping)
        with torch.no_grad():
            if tuples:
                return batch_kept(call_layer(module, x, named), x)
            return batch_kept(module(**x) if isinstance(x, Mapping) else module(x), x)


class Unsuitable(Exception):
    """The error of a module whose inputs or outputs are not those that a network passes on."""


def _check_dtype(layer: nn.Module, x: Tensor) -> None:
    """Raise Unsuitable if a layer of torch.nn or Lamella has weights for floats, and `x` has none.

    The meta device multiplies whole numbers with floats, and the CPU does not.
    """
    known = type(layer).__module__.startswith(("torch.nn.", "lamella.network."))
    if known and list(layer.parameters()) and (text := dtype_misfit(layer, x)):
        raise Unsuitable(text)


def batch_kept(y: object, x: Inputs) -> Tensor:
    """Return `y` if it is a batch of as many samples as `x`. Raise Unsuitable if it is not."""
    if not isinstance(y, Tensor):
        auxiliary = any(name.startswith("aux_logits") for name in dir(y))  # as of Inception and GoogLeNet
        way = "set aux_logits=false" if auxiliary else "call it in a module of your own, `_target_: mine.Block`"
        raise Unsuitable(f"it returns {type(y).__name__} where a tensor is expected; {way}")
    if y.dim() < 1 or len(y) != len(first_tensor(x)):
        raise Unsuitable("it changes the batch dimension, which is the first")
    return y


def layer_table(rows: Sequence[LayerRow], batch: int, width: int = 80) -> str:
    """Return the rows as a table, with the shapes of a batch of size `batch`, and the totals.

    If the table would be wider than `width` characters, each layer takes two lines.
    """
    lines = [["layer", "class", "input", "output", "parameters", "mult-adds"]]
    for row in rows:
        shapes = [str((batch, *sample)) for sample in (row.input, row.output)]
        place = row.place.removeprefix("network.layers.")
        lines.append([place, row.layer, *shapes, f"{row.parameters:,}", f"{row.multiply_adds:,}"])
    totals = sum(row.parameters for row in rows), sum(row.multiply_adds for row in rows)
    lines.append(["total", "", "", "", *(f"{total:,}" for total in totals)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    is_wide = sum(widths) + 2 * (len(widths) - 1) > width
    aligned = []
    for line in lines:
        cells = [*map(str.ljust, line[:4], widths), *map(str.rjust, line[4:], widths[4:])]
        if is_wide:
            aligned += [f"{line[0]}  {line[1]}".rstrip(), "    " + "  ".join(cells[2:])]
        else:
            aligned.append("  ".join(cells).rstrip())
    return "\n".join(aligned)
