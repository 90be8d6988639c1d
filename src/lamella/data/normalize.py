"""The normalisation of pixels before they enter the network."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lamella.errors import RequestError


@dataclass(frozen=True)
class Normalize:
    """Turns pixels from 0 to 255 into `pixel * scale - shift`. scale, shift: (channels, 1, 1)."""

    scale: Tensor
    shift: Tensor

    @classmethod
    def of(cls, mean: Sequence[float] | None, std: Sequence[float] | None, shape: Sequence[int]) -> "Normalize":
        """Return the normalisation (pixel / 255 - mean) / std.

        mean, std: one number for each channel; None means 0 and 1. shape: of a sample, (channels, height, width).
        Raises RequestError if their lengths differ from the number of channels, or a std is not above 0.
        """
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
        """Return a copy on `device`."""
        return Normalize(self.scale.to(device), self.shift.to(device))

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return the normalised pixels, float32. pixels: uint8 or float (B, channels, height, width)."""
        return pixels.to(torch.float32, copy=True).mul_(self.scale).sub_(self.shift)
