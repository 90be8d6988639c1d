"""The samples and a layer of this project, which the configs name as `mine.spirals` and `mine.Waves`."""

import math

import torch
from torch import Tensor, nn

from lamella.data import Samples, Splits


def spirals(count: int, turns: float, noise: float) -> Splits:
    """Return points on two spirals that wind around each other, and the number of the spiral of each point.

    Inputs are floats (count, 2), and targets are class indices (count,). noise: the standard deviation of what is added
    to both coordinates. Lamella seeds torch before it reads the samples, so that they are the same in every run.
    """
    targets = torch.arange(count) % 2
    radius = torch.rand(count).sqrt()
    angle = 2 * math.pi * turns * radius + math.pi * targets
    points = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
    return Splits(Samples(points + noise * torch.randn(count, 2), targets))


class Waves(nn.Module):
    """Adds sines and cosines of each input at several frequencies, by which a network learns finer shapes.

    Takes (batch, features) and returns (batch, features * (1 + 2 * frequencies)).
    """

    def __init__(self, frequencies: int) -> None:
        super().__init__()
        self.frequencies = frequencies

    def forward(self, x: Tensor) -> Tensor:
        """Return the inputs and their waves."""
        angles = [math.pi * 2**number * x for number in range(self.frequencies)]
        return torch.cat([x, *(wave for angle in angles for wave in (angle.sin(), angle.cos()))], dim=1)
