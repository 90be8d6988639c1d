"""Define the layers that are learned tensors: a parameter as a branch, positions, and a class token."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lamella.errors import RequestError
from lamella.network.initialization import initializer
from lamella.network.inputs import Inputs, Named, first_tensor
from lamella.network.layers import NamedLayer


class Parameter(NamedLayer):
    """Gives a learned tensor for each sample, whatever comes in.

    shape: of the tensor. init: how its first values are drawn, a word of `network.init`.
    Shapes: (B, …) in, (B, *shape) out.
    """

    def __init__(self, shape: Sequence[int], init: str = "zeros") -> None:
        super().__init__()
        self.value = nn.Parameter(torch.empty(*shape))
        try:
            initializer(init, "init")[0](self.value)
        except RequestError as error:  # which knows no place
            raise ValueError(str(error)) from error

    def forward(self, input: Inputs, named: Named = None) -> Tensor:
        """Return the tensor, once for each sample."""
        return self.value.repeat(first_tensor(input).shape[0], *[1] * self.value.dim())

    def extra_repr(self) -> str:
        """Return the arguments that are printed with the layer."""
        return f"shape={tuple(self.value.shape)}"


class Positions(nn.Module):
    """Adds a vector for each position: learned ones, or sines and cosines (Vaswani et al. 2017, arXiv:1706.03762).

    sample_shape: (T, C), the longest sequence and its features. Learned vectors begin with a deviation of 0.02.
    Shapes: (B, t, C) in and out, where t is at most T for learned vectors.
    """

    def __init__(self, sample_shape: Sequence[int], kind: Literal["learned", "sinusoidal"] = "learned") -> None:
        super().__init__()
        self.kind, self.sample_shape = kind, tuple(sample_shape)
        self.weight = nn.Parameter(torch.randn(*sample_shape) * 0.02) if kind == "learned" else None

    def forward(self, input: Tensor) -> Tensor:
        """Return the sum of the input and the positions."""
        if self.weight is not None:
            return input + self.weight[: input.shape[1]]
        return input + sinusoidal_positions(input.shape[1], input.shape[2], input)

    def extra_repr(self) -> str:
        """Return the arguments that are printed with the layer."""
        return f"{self.sample_shape}, kind={self.kind}"


def sinusoidal_positions(length: int, width: int, like: Tensor) -> Tensor:
    """Return sin(t / 10000^(2i/C)) at 2i and cos of the same at 2i + 1 (T, C), of the dtype and device of `like`."""
    steps = torch.arange(length, dtype=torch.float32, device=like.device)[:, None]
    rates = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float32, device=like.device) / width)
    waves = torch.stack([torch.sin(steps * rates), torch.cos(steps * rates)], 2)
    return waves.flatten(1)[:, :width].to(like.dtype)


class ClassToken(nn.Module):
    """Puts a learned vector, at first zeros, before a sequence (Dosovitskiy et al. 2020, arXiv:2010.11929).

    Shapes: (B, T, C) in, (B, 1 + T, C) out.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, embed_dim))

    def forward(self, input: Tensor) -> Tensor:
        """Return the sequence that begins with the vector."""
        return torch.cat([self.weight.expand(input.shape[0], 1, -1), input], 1)

    def extra_repr(self) -> str:
        """Return the arguments that are printed with the layer."""
        return f"{self.weight.shape[1]}"
