"""Composite layers that torch.nn lacks."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Sequential(nn.Sequential):
    """torch's Sequential; where a layer returns a tuple, as LSTM does, its first item is passed on.

    Shapes: whatever the layers take and give.
    """

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, input: Tensor) -> Tensor:
        for layer in self._modules.values():
            assert layer is not None
            output = layer(input)
            input = output[0] if isinstance(output, tuple) else output
        return input


class Residual(nn.Module):
    """`layers(x) + shortcut(x)`, the shortcut being x itself by default (He et al. 2015, arXiv:1512.03385).

    Shapes: both branches must give the same shape.
    """

    def __init__(self, layers: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.layers = layers
        self.shortcut = shortcut

    def forward(self, input: Tensor) -> Tensor:
        kept = input if self.shortcut is None else self.shortcut(input)
        output: Tensor = self.layers(input) + kept
        return output


class Concat(nn.Module):
    """The outputs of several branches over the same input, joined along `dim` (the channels by default).

    Shapes: the branches' outputs agree in every dimension but `dim`.
    """

    def __init__(self, branches: Mapping[str, nn.Module], dim: int = 1) -> None:
        super().__init__()
        self.dim = dim
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, input: Tensor) -> Tensor:
        return torch.cat([branch(input) for branch in self.children()], self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"
