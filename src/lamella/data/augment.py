"""Random changes to training images, a whole batch at a time."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, pad

from lamella.errors import RequestError
from lamella.seeds import AUGMENT, generator


@dataclass(frozen=True)
class Augment:
    """Changes each training image at random, a whole batch in one call.

    crop: the pixels of black padding on each side, before a random window of the old size is cut out. flip: mirror
    every second image, on average, left to right. rotation: the largest angle in degrees, in both directions. Raises
    RequestError if crop or rotation is negative.
    """

    crop: int = 0
    flip: bool = False
    rotation: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("crop", self.crop), ("rotation", self.rotation)):
            if value < 0:
                raise RequestError(f"data.augment.{name} is {value}; it takes 0 or more", f"data.augment.{name}")

    def __bool__(self) -> bool:
        """Return False if nothing is changed. A class of a user's own may change images without these three."""
        return bool(self.crop or self.flip or self.rotation) or type(self) is not Augment

    def draw(self, count: int, seed: int, epoch: int) -> Tensor:
        """Return uniform random numbers (count, 4) for an epoch: each sample's shift down and right, flip and angle.

        They depend only on the seed, the epoch and the index of the sample.
        """
        return torch.rand(count, 4, generator=generator(seed, epoch, AUGMENT))

    def __call__(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return the changed images (B, channels, height, width).

        images: of the same shape. drawn: the random numbers (B, 4) of these samples, from `draw`.
        """
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
            # affine_grid measures in half sides. Pixels are square, so that the ratio of the sides scales the sine.
            ratio, zero = height / width, torch.zeros_like(sin)
            matrix = torch.stack([cos, -sin * ratio, zero, sin / ratio, cos, zero], 1).view(count, 2, 3)
            images = images.float()
            images = grid_sample(images, affine_grid(matrix, list(images.shape), False), align_corners=False)
        return images
