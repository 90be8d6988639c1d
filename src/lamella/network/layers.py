"""Define the composite layers that torch.nn lacks, and the network that is built from a list of layers."""

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


def first_output(output: T | tuple[T, ...]) -> T:
    """Return what a layer hands to the next one: its output, or the first item of a tuple.

    An LSTM, for example, returns a tuple whose first item is the output sequence.
    """
    return output[0] if isinstance(output, tuple) else output


class Sequential(nn.Sequential):
    """Runs layers one after another, as torch's Sequential, and accepts layers that return a tuple.

    Shapes: those of the layers.
    """

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, input: Tensor) -> Tensor:
        """Return the output of the last layer."""
        for layer in self:
            input = first_output(layer(input))
        return input


class Residual(nn.Module):
    """Computes `layers(x) + shortcut(x)`, where the shortcut is x itself by default (He et al. 2015, arXiv:1512.03385).

    Shapes: those of the two branches, whose outputs have the same shape.
    """

    def __init__(self, layers: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.layers = layers
        self.shortcut = shortcut

    def forward(self, input: Tensor) -> Tensor:
        """Return the sum of both branches."""
        shortcut = input if self.shortcut is None else first_output(self.shortcut(input))
        output: Tensor = first_output(self.layers(input)) + shortcut
        return output


class Concat(nn.Module):
    """Joins the outputs of several branches over the same input along `dim`, by default along the channels.

    Shapes: the outputs of the branches agree in every dimension but `dim`.
    """

    def __init__(self, branches: Mapping[str, nn.Module], dim: int = 1) -> None:
        super().__init__()
        self.dim = dim
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, input: Tensor) -> Tensor:
        """Return the joined outputs."""
        return torch.cat([first_output(branch(input)) for branch in self.children()], self.dim)

    def extra_repr(self) -> str:
        """Return the arguments that are printed with the layer."""
        return f"dim={self.dim}"


class Affine(nn.Module):
    """Computes `x @ w + b` with w (in_features, out_features), the transpose of the weight of nn.Linear.

    Shapes: (B, in_features) in, (B, out_features) out. w and b are drawn from a standard normal distribution.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(in_features, out_features))
        self.b = nn.Parameter(torch.randn(out_features))

    def forward(self, input: Tensor) -> Tensor:
        """Return `input @ w + b`."""
        return torch.matmul(input, self.w) + self.b


class Network(Sequential):
    """A network that is built from a list of layers, and printed under the name in its config."""

    def __init__(self, children: Mapping[str, nn.Module], name: str) -> None:
        super().__init__(children)
        self.name = name

    def __repr__(self) -> str:
        return self.name + super().__repr__().removeprefix(type(self).__name__)
