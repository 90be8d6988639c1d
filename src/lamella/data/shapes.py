"""Make pictures of discs, squares and triangles with their masks, which need no files."""

import torch
from torch import Tensor

from lamella.data.samples import Samples, Splits
from lamella.errors import RequestError
from lamella.seeds import generator

CLASSES = ("ground", "disc", "square", "triangle")
MOST = 2  # shapes in a picture
DARK = 110.0  # the brightest value of the ground; shapes are so much darker than white at most
NOISE = 20.0  # the standard deviation of the noise, of pixels from 0 to 255


def shapes(count: int = 1000, size: int = 32, seed: int = 0, ignored: int = 255) -> Splits:
    """Return pictures of one or two bright discs, squares and triangles on noise, with their masks.

    count: how many pictures. size: their height and width. seed: decides what they show. ignored: the index of the
    pixels at an edge, which do not count. The inputs are uint8 (count, 3, size, size), the targets uint8 (count, size,
    size) with the indices in CLASSES. Raises RequestError.
    """
    for name, value, least in (("count", count, 1), ("size", size, 16)):
        if value < least:
            raise RequestError(f"data.source.{name} is {value}; it takes {least} or more", f"data.source.{name}")
    if ignored in range(len(CLASSES)) or not 0 <= ignored <= 255:
        raise RequestError(f"data.ignored is {ignored}; it takes a number from {len(CLASSES)} to 255", "data.ignored")
    numbers = generator(seed)
    shown = torch.randint(1, MOST + 1, (count,), generator=numbers)
    kinds = torch.randint(1, len(CLASSES), (count, MOST), generator=numbers)
    centres = size * (0.15 + 0.7 * torch.rand(count, MOST, 2, generator=numbers))
    centres[:, 1, 1] = (centres[:, 0, 1] + size / 2) % size  # beside each other, so that none hides the other
    radii = size * (0.18 + 0.12 * torch.rand(count, MOST, generator=numbers))
    angles = 2 * torch.pi * torch.rand(count, MOST, generator=numbers)
    colours = DARK * torch.rand(count, MOST + 1, 3, generator=numbers)  # the ground's first
    colours[:, 1:] = 255 - colours[:, 1:]
    noise = NOISE * torch.randn(count, 3, size, size, generator=numbers)

    pictures = colours[:, 0, :, None, None].expand(count, 3, size, size)
    targets = torch.zeros(count, size, size, dtype=torch.uint8)
    for number in range(MOST):
        depth = _depth(kinds[:, number], centres[:, number], radii[:, number], angles[:, number], size)
        depth = torch.where((number < shown)[:, None, None], depth, -torch.inf)
        pictures = torch.where((depth > 0)[:, None], colours[:, number + 1, :, None, None], pictures)
        targets = torch.where(depth > 0, kinds[:, number, None, None].to(torch.uint8), targets)
        targets[depth.abs() < 0.5] = ignored
    return Splits(Samples((pictures + noise).clamp(0, 255).to(torch.uint8), targets))


def _depth(kinds: Tensor, centres: Tensor, radii: Tensor, angles: Tensor, size: int) -> Tensor:
    """Return how deep each pixel lies in a shape, (N, size, size): a distance in pixels, below 0 outside.

    kinds, radii, angles: (N,). centres: (N, 2). A triangle is a little larger than its radius says, because it has the
    smallest area.
    """
    middle = torch.arange(size) + 0.5
    down = middle[:, None] - centres[:, 0, None, None]
    right = middle[None, :] - centres[:, 1, None, None]
    sin, cos = angles.sin()[:, None, None], angles.cos()[:, None, None]
    down, right = cos * down - sin * right, sin * down + cos * right
    radius = radii[:, None, None]
    disc = radius - (down.square() + right.square()).sqrt()
    square = radius / 2**0.5 - torch.maximum(down.abs(), right.abs())
    # The sides of an equilateral triangle are at one distance from its centre, in directions 120 degrees apart.
    triangle = 0.6 * radius - torch.maximum(-down, down / 2 + right.abs() * (3**0.5 / 2))
    kinds = kinds[:, None, None]
    return torch.where(kinds == 1, disc, torch.where(kinds == 2, square, triangle))
