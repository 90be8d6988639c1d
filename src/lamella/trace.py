"""The shape trace: what each layer does to a batch that passes through, in the order of execution."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lamella.layers import passed_on
from lamella.sizes import sample


@dataclass(frozen=True)
class Row:
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
        self.rows: list[Row] = []
        self._counter: Any = FlopCounterMode(display=False)

    def __enter__(self) -> None:
        self._counter.__enter__()

    def __exit__(self, *raised: Any) -> None:
        self._counter.__exit__(*raised)

    def whole(self, module: nn.Module, x: Tensor, place: str) -> Tensor:
        """Run a module that is one layer: one row."""
        before = self._counter.get_total_flops()
        y = _run(module, x)
        self._add(place, module, x, y, before)
        return y

    def leaves(self, module: nn.Module, x: Tensor, place: str) -> Tensor:
        """Run a module that somebody else wrote: one row for each of its leaves."""
        before: dict[str, int] = {}
        start = len(self.rows)

        def enter(name: str, leaf: nn.Module, inputs: tuple[Any, ...]) -> None:
            before[name] = self._counter.get_total_flops()

        def leave(name: str, leaf: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            output = passed_on(output)
            if inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
                self._add(f"{place}.{name}" if name else place, leaf, inputs[0], output, before[name])

        hooks = []
        for name, leaf in module.named_modules():
            if not any(leaf.children()):
                hooks.append(leaf.register_forward_pre_hook(partial(enter, name)))
                hooks.append(leaf.register_forward_hook(partial(leave, name)))
        try:
            return _run(module, x)
        except Exception:
            del self.rows[start:]
            raise
        finally:
            for hook in hooks:
                hook.remove()

    def _add(self, place: str, module: nn.Module, x: Tensor, y: Tensor, before: int) -> None:
        parameters = sum(parameter.numel() for parameter in module.parameters())
        # One multiply-add is two operations.
        multiply_adds = (self._counter.get_total_flops() - before) // (2 * len(x))
        self.rows.append(Row(place, type(module).__name__, sample(x), sample(y), parameters, multiply_adds))


def _run(module: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return batch_kept(passed_on(module(x)), x)


def batch_kept(y: Any, x: Tensor) -> Tensor:
    """`y`, if it is a batch of as many samples as `x`. Raises TypeError or ValueError."""
    if not isinstance(y, Tensor):
        raise TypeError(f"it gives a {type(y).__name__}, where a tensor is expected")
    if y.dim() < 1 or len(y) != len(x):
        raise ValueError("it changes the batch dimension, which is the first")
    return y
