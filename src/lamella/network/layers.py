"""Define the composite layers that torch.nn lacks, and the network that is built from a list of layers."""

import operator
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lamella.network.inputs import Inputs, Named, named_inputs

T = TypeVar("T")


def first_output(output: T | tuple[T, ...]) -> T:
    """Return what a layer hands to the next one: its output, or the first item of a tuple.

    An LSTM, for example, returns a tuple whose first item is the output sequence.
    """
    return output[0] if isinstance(output, tuple) else output


class NamedLayer(nn.Module):
    """A layer of Lamella: `forward(input, named=None)` may read the network's named inputs beside its own input.

    named: a mapping of names to tensors (B, …); where a network has one input, its name is `input`. None outside of a
    network.
    """


def call_layer(layer: nn.Module, input: Inputs, named: Named = None) -> Any:
    """Return what a layer makes of its input, of a tuple the first item.

    Lamella's own layers get the network's named inputs too. Any other module that gets all of them takes them by
    keyword.
    """
    if isinstance(layer, NamedLayer):
        return first_output(layer(input, named) if named else layer(input))
    # Asked of each layer in each step: whether something is a Mapping takes four times as long to answer.
    return first_output(layer(input) if isinstance(input, Tensor) else layer(**input))


class Sequential(NamedLayer, nn.Sequential):
    """Runs layers one after another, as torch's Sequential, and accepts layers that return a tuple.

    Shapes: those of the layers.
    """

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, input: Any, named: Named = None) -> Any:
        """Return the output of the last layer."""
        for layer in self:
            input = call_layer(layer, input, named)
        return input


class Residual(NamedLayer):
    """Computes `layers(x) + shortcut(x)`, where the shortcut is x itself by default (He et al. 2015, arXiv:1512.03385).

    Shapes: those of the two branches, whose outputs have the same shape.
    """

    def __init__(self, layers: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.layers = layers
        self.shortcut = shortcut

    def forward(self, input: Any, named: Named = None) -> Tensor:
        """Return the sum of both branches."""
        shortcut = input if self.shortcut is None else call_layer(self.shortcut, input, named)
        output: Tensor = call_layer(self.layers, input, named) + shortcut
        return output


class Branches(NamedLayer):
    """Base of the layers that run several branches over the same input, and combine their outputs.

    A subclass defines `combine`, which takes the outputs in the order in which the branches are written.
    """

    def __init__(self, branches: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, input: Inputs, named: Named = None) -> Tensor:
        """Return the combined outputs."""
        return self.combine([call_layer(branch, input, named) for branch in self.children()])

    def combine(self, outputs: Sequence[Tensor]) -> Tensor:
        """Return one tensor (B, …)."""
        raise NotImplementedError


class Concat(Branches):
    """Joins the outputs of several branches over the same input along `dim`, by default along the channels.

    Shapes: the outputs of the branches agree in every dimension but `dim`.
    """

    def __init__(self, branches: Mapping[str, nn.Module], dim: int = 1) -> None:
        super().__init__(branches)
        self.dim = dim

    def combine(self, outputs: Sequence[Tensor]) -> Tensor:
        """Return the joined outputs."""
        return torch.cat(list(outputs), self.dim)

    def extra_repr(self) -> str:
        """Return the arguments that are printed with the layer."""
        return f"dim={self.dim}"


class Add(Branches):
    """Adds the outputs of several branches over the same input.

    Shapes: those of the outputs, where a dimension of size 1 is repeated, as torch broadcasts.
    """

    def combine(self, outputs: Sequence[Tensor]) -> Tensor:
        """Return the sum."""
        return reduce(operator.add, outputs)


class Multiply(Branches):
    """Multiplies the outputs of several branches over the same input, number by number, as a gate does.

    Shapes: those of the outputs, where a dimension of size 1 is repeated, as torch broadcasts.
    """

    def combine(self, outputs: Sequence[Tensor]) -> Tensor:
        """Return the product."""
        return reduce(operator.mul, outputs)


class Take(nn.Module):
    """Gives one part of the tuple that a layer returns, such as the final state of a GRU.

    part: the number of the part, and of the part in it where that is a tuple too.
    Shapes: those of the layer; the states (layers, B, H) of a recurrent layer become (B, layers, H).
    """

    def __init__(self, layer: nn.Module, part: Sequence[int]) -> None:
        super().__init__()
        self.layer, self.part = layer, tuple(part)

    def forward(self, input: Tensor) -> Tensor:
        """Return the part."""
        output = self.layer(input)
        for depth, number in enumerate(self.part):
            if not isinstance(output, tuple):
                way = f"write take: {list(self.part[:depth])}" if depth > 1 else f"write take: {self.part[0]}"
                raise TypeError(
                    "it gives one tensor; leave take out" if depth == 0 else f"that part is a tensor; {way}"
                )
            if number >= len(output):
                raise IndexError(f"it gives {len(output)} parts, which are numbered from 0; take is {number}")
            output = output[number]
        if not isinstance(output, Tensor):
            raise TypeError(f"that part is a tuple; write take: {[*self.part, 0]}")
        return output.transpose(0, 1) if isinstance(self.layer, nn.RNNBase) and self.part[0] else output

    def extra_repr(self) -> str:
        """Return the arguments that are printed with the layer."""
        return f"part={self.part}"


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


class Scale(nn.Module):
    """Multiplies by a number, such as the logits of a network by an inverse temperature.

    Shapes: (B, …) in and out.
    """

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, input: Tensor) -> Tensor:
        """Return the products."""
        return input * self.factor

    def extra_repr(self) -> str:
        """Return the arguments that are printed with the layer."""
        return f"factor={self.factor}"


class Network(Sequential):
    """A network that is built from a list of layers, and printed under the name in its config."""

    def __init__(self, children: Mapping[str, nn.Module], name: str) -> None:
        super().__init__(children)
        self.name = name

    def forward(self, input: Any, named: Named = None) -> Any:
        """Return the output (B, …) for a batch (B, …), or for a mapping of names to such batches."""
        return super().forward(input, named or named_inputs(input))

    def __repr__(self) -> str:
        return self.name + super().__repr__().removeprefix(type(self).__name__)
