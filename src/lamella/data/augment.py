"""Random changes to training images, and to their masks, a whole batch at a time."""

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
        if self.crop or self.flip:
            batch, rows, columns = self._window(images, drawn)
            padded = pad(images, (self.crop,) * 4)
            images = padded[batch, :, rows, columns].permute(0, 3, 1, 2)
        if self.rotation:
            images = images.float()
            images = grid_sample(images, self._rotated_grid(images, drawn), align_corners=False)
        return images

    def masks(self, masks: Tensor, drawn: Tensor, ignored: int) -> Tensor:
        """Return the masks (B, height, width) of images that `__call__` has changed, by nearest neighbour.

        masks: class indices, int64, of the same shape. drawn: as for the images. ignored: the index of the pixels that
        come into a mask from outside.
        """
        if self.crop or self.flip:
            batch, rows, columns = self._window(masks, drawn)
            masks = pad(masks, (self.crop,) * 4, value=ignored)[batch, rows, columns]
        if self.rotation:
            shifted = (masks - ignored)[:, None].float()  # grid_sample puts zeros where nothing was
            grid = self._rotated_grid(shifted, drawn)
            masks = grid_sample(shifted, grid, "nearest", align_corners=False)[:, 0].long() + ignored
        return masks

    def _window(self, images: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the indices that cut a window out of each padded image, mirrored or not: samples, rows and columns.

        images: (B, …, height, width). The indices are (B, 1, 1), (B, height, 1) and (B, 1, width).
        """
        count, height, width = len(images), *images.shape[-2:]
        down, right, flip, _ = drawn.unbind(1)
        span = 2 * self.crop + 1
        rows = torch.arange(height, device=images.device) + (down * span).long()[:, None]
        columns = torch.arange(width, device=images.device).expand(count, width)
        if self.flip:
            columns = torch.where(flip[:, None] < 0.5, columns.flip(1), columns)
        columns = columns + (right * span).long()[:, None]
        batch = torch.arange(count, device=images.device)[:, None, None]
        return batch, rows[:, :, None], columns[:, None, :]

    def _rotated_grid(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return the places from which the pixels of rotated images are taken, (B, height, width, 2)."""
        count, _, height, width = images.shape
        radians = (2 * drawn[:, 3] - 1) * (self.rotation * torch.pi / 180)
        sin, cos = radians.sin(), radians.cos()
        # affine_grid measures in half sides. Pixels are square, so that the ratio of the sides scales the sine.
        ratio, zero = height / width, torch.zeros_like(sin)
        matrix = torch.stack([cos, -sin * ratio, zero, sin / ratio, cos, zero], 1).view(count, 2, 3)
        return affine_grid(matrix, list(images.shape), False)
