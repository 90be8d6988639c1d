"""Random changes to training images, a whole batch at a time."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, pad

from lamella.errors import RequestError
from lamella.seeds import AUGMENT, generator


@dataclass(frozen=True)
class Augment:
    """Random changes to each training image on its own, a whole batch at a time.

    crop: pixels of black padding on each side, of which a random window of the old size is kept. flip: mirror
    left to right, one image in two. rotation: the largest angle in degrees, either way.
    """

    crop: int = 0
    flip: bool = False
    rotation: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("crop", self.crop), ("rotation", self.rotation)):
            if value < 0:
                raise RequestError(f"data.augment.{name} is {value}; it takes 0 or more", f"data.augment.{name}")

    def __bool__(self) -> bool:
        return bool(self.crop or self.flip or self.rotation)

    def draw(self, count: int, seed: int, epoch: int) -> Tensor:
        """Uniform numbers (count, 4): down, right, flip and angle of each sample in this epoch."""
        return torch.rand(count, 4, generator=generator(seed, epoch, AUGMENT))

    def __call__(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Images (B, channels, height, width) and their draws (B, 4) in, images of the same shape out."""
        count, _, height, width = images.shape
        down, right, flip, angle = drawn.unbind(1)
        if self.crop or self.flip:
            span = 2 * self.crop + 1
            rows = torch.arange(height, device=images.device) + (down * span).long()[:, None]
            columns = torch.arange(width, device=images.device).expand(count, width)
            if self.flip:
                columns = torch.where(flip[:, None] < 0.5, columns.flip(1), columns)
            columns = columns + (right * span).long()[:, None]
            padded = pad(images, (self.crop,) * 4)
            batch = torch.arange(count, device=images.device)[:, None, None]
            images = padded[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        if self.rotation:
            radians = (2 * angle - 1) * (self.rotation * torch.pi / 180)
            sin, cos = radians.sin(), radians.cos()
            # Pixels are square: the grid's unit is half a side, so the other side's share scales the sine.
            ratio, zero = height / width, torch.zeros_like(sin)
            matrix = torch.stack([cos, -sin * ratio, zero, sin / ratio, cos, zero], 1).view(count, 2, 3)
            images = images.float()
            images = grid_sample(images, affine_grid(matrix, list(images.shape), False), align_corners=False)
        return images
