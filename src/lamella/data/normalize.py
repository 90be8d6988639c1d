"""The normalisation of pixels before they enter the network."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lamella.errors import RequestError


@dataclass(frozen=True)
class Normalize:
    """Turns pixels from 0 to 255 into `pixel * scale - shift`. scale, shift: (channels, 1, 1), or (1,) for all."""

    scale: Tensor
    shift: Tensor

    @classmethod
    def of(
        cls, mean: float | Sequence[float] | None, std: float | Sequence[float] | None, shape: Sequence[int]
    ) -> "Normalize":
        """Return the normalisation (pixel / 255 - mean) / std.

        mean, std: one number for all channels, or one for each; None means 0 and 1. shape: of a sample, (channels,
        height, width), or any other, which takes one number. Raises RequestError if there are too many or too few
        numbers, or a std is not above 0.
        """
        channels = shape[0] if len(shape) == 3 else 1
        spread = _numbers("data.std", 1.0 if std is None else std, channels)
        centre = _numbers("data.mean", 0.0 if mean is None else mean, channels)
        if min(spread) <= 0:
            raise RequestError(f"data.std is {spread}; it takes numbers above 0", "data.std")
        place = (-1, 1, 1) if len(shape) == 3 else (-1,)
        scale = torch.tensor(spread).view(place)
        return cls(1 / (255 * scale), torch.tensor(centre).view(place) / scale)

    def to(self, device: torch.device) -> "Normalize":
        """Return a copy on `device`."""
        return Normalize(self.scale.to(device), self.shift.to(device))

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return the normalised pixels, float32. pixels: uint8 or float (B, channels, height, width)."""
        return pixels.to(torch.float32, copy=True).mul_(self.scale).sub_(self.shift)

    def pixels(self, values: Tensor) -> Tensor:
        """Return the pixels of normalised images (…, channels, height, width), on the scale from 0 to 1."""
        normalize = self.to(values.device)
        return (values + normalize.shift) / normalize.scale / 255


def _numbers(key: str, value: float | Sequence[float], channels: int) -> list[float]:
    """Return a number for each channel. Raises RequestError."""
    values = [float(value)] * channels if isinstance(value, int | float) else list(value)
    if len(values) != channels:
        takes = f"{channels} channels; it takes one number for each, or a single one" if channels > 1 else "one channel"
        raise RequestError(f"{key} is {values}; data.shape has {takes}", key)
    return values
