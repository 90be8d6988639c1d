"""Pixels from 0 to 255 as the network takes them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lamella.errors import RequestError


@dataclass(frozen=True)
class Normalize:
    """Pixels from 0 to 255 become `pixel * scale - shift`; scale and shift are (channels, 1, 1)."""

    scale: Tensor
    shift: Tensor

    @classmethod
    def of(cls, mean: Sequence[float] | None, std: Sequence[float] | None, shape: Sequence[int]) -> "Normalize":
        """(pixel / 255 - mean) / std, one number a channel, as one scale and one shift. Raises RequestError."""
        channels = shape[0]
        for key, values in (("data.mean", mean), ("data.std", std)):
            if values is not None and len(values) != channels:
                raise RequestError(
                    f"{key} is {list(values)}; data.shape has {channels} channels, each takes a number", key
                )
        if std is not None and min(std) <= 0:
            raise RequestError(f"data.std is {list(std)}; it takes numbers above 0", "data.std")
        centre = torch.tensor(mean if mean is not None else [0.0] * channels).view(-1, 1, 1)
        spread = torch.tensor(std if std is not None else [1.0] * channels).view(-1, 1, 1)
        return cls(1 / (255 * spread), centre / spread)

    def to(self, device: torch.device) -> "Normalize":
        return Normalize(self.scale.to(device), self.shift.to(device))

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 or float (B, channels, height, width) in, float32 of the same shape out."""
        return pixels.to(torch.float32, copy=True).mul_(self.scale).sub_(self.shift)
