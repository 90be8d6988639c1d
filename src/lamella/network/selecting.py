"""Define the layers that choose among inputs and positions."""

from typing import Literal

import torch
from torch import Tensor

from lamella.network.inputs import Inputs, Named
from lamella.network.layers import NamedLayer


class Select(NamedLayer):
    """Gives the named input `name` of the network, whatever comes in; a single input is called `input`.

    Shapes: any in, those of the named input (B, …) out.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, input: Inputs, named: Named = None) -> Tensor:
        """Return the named input."""
        assert named is not None
        return named[self.name]

    def extra_repr(self) -> str:
        """Return the arguments that are printed with the layer."""
        return self.name


class Pool(NamedLayer):
    """Replaces the dimension `over` by the mean, the largest value, the first or the last of its positions.

    over: counts the batch as dimension 0, as torch does. mask: the named input (B, T) that is not 0 (or is True) where
    a position counts, or `input` for the tokens of a network with one input, of which 0 is padding; a sample without
    any such position gives zeros.
    Shapes: (B, …, T, …) in, the same without T out.
    """

    def __init__(
        self, over: int, how: Literal["mean", "max", "first", "last"] = "mean", mask: str | None = None
    ) -> None:
        super().__init__()
        self.over, self.how, self.mask = over, how, mask

    def forward(self, input: Tensor, named: Named = None) -> Tensor:
        """Return the pooled values."""
        values = input.movedim(self.over, 1)
        if self.mask is None:
            if self.how in ("first", "last"):
                return values[:, 0 if self.how == "first" else -1]
            return values.mean(1) if self.how == "mean" else values.amax(1)
        assert named is not None
        mask = named[self.mask].bool()
        if mask.shape != values.shape[:2]:
            raise ValueError(
                f"its mask has {mask[0].numel()} positions, and dimension {self.over} has {values.shape[1]}"
            )
        shaped = mask.reshape(*mask.shape, *[1] * (values.dim() - 2))
        if self.how == "mean":
            return (values * shaped).sum(1) / shaped.sum(1).clamp(min=1)
        if self.how == "max":
            largest = values.masked_fill(~shaped, -torch.inf).amax(1)
            return torch.where(shaped.any(1), largest, 0)
        # The position that counts and is the first, or the last, is the one with the largest key.
        positions = torch.arange(1, mask.shape[1] + 1, device=mask.device)
        keys = mask * (positions.flip(0) if self.how == "first" else positions)
        index = keys.argmax(1, keepdim=True).reshape(-1, *[1] * (values.dim() - 1)).expand(-1, 1, *values.shape[2:])
        return torch.where(shaped.any(1), values.gather(1, index).squeeze(1), 0)

    def extra_repr(self) -> str:
        """Return the arguments that are printed with the layer."""
        return f"over={self.over}, how={self.how}" + (f", mask={self.mask}" if self.mask else "")
