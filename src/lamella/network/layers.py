"""Composite layers that torch.nn lacks."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def passed_on(output: Any) -> Any:
    """What a layer hands to the next: of a tuple, such as an LSTM's, the first item, which is its output sequence."""
    return output[0] if isinstance(output, tuple) else output


class Sequential(nn.Sequential):
    """torch's Sequential, in which layers that return a tuple may stand.

    Shapes: whatever the layers take and give.
    """

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, input: Tensor) -> Tensor:
        for layer in self._modules.values():
            assert layer is not None
            input = passed_on(layer(input))
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
        kept = input if self.shortcut is None else passed_on(self.shortcut(input))
        output: Tensor = passed_on(self.layers(input)) + kept
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
        return torch.cat([passed_on(branch(input)) for branch in self.children()], self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Affine(nn.Module):
    """`x @ w + b` as it is written on paper: w is (in_features, out_features), the transpose of what nn.Linear holds.

    Shapes: (B, in_features) in, (B, out_features) out. w and b are drawn from a standard normal distribution.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(in_features, out_features))
        self.b = nn.Parameter(torch.randn(out_features))

    def forward(self, input: Tensor) -> Tensor:
        return torch.matmul(input, self.w) + self.b


class Network(Sequential):
    """The finished stack, printed under the name that its config gives."""

    def __init__(self, children: Mapping[str, nn.Module], name: str) -> None:
        super().__init__(children)
        self.name = name

    def _get_name(self) -> str:
        return self.name
