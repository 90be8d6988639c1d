"""The augmentation of runs of Lamella 0.1, whose configs have a mapping in place of a list of transforms."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, pad

from lamella.errors import RequestError
from lamella.seeds import AUGMENT, OWN, generator, seeded


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


@dataclass(frozen=True)
class Recorded:
    """Applies an Augment as a transform in a list, with the random numbers that it had in Lamella 0.1."""

    augment: Augment

    @property
    def fills(self) -> bool:
        """Return whether pixels come in from outside of the image."""
        return bool(getattr(self.augment, "crop", 0) or getattr(self.augment, "rotation", 0))

    @property
    def _is_own(self) -> bool:
        return type(self.augment) is not Augment  # it may draw from any generator

    def check(self, shape: Sequence[int]) -> None:
        """Raise RequestError if images of this shape (channels, height, width) cannot be changed."""
        if not (callable(self.augment) and hasattr(self.augment, "draw")):
            raise RequestError(
                f"data.augment is a {type(self.augment).__name__}; it takes a list, as [{{crop: 4}}, flip]",
                "data.augment",
            )
        if getattr(self.augment, "crop", 0) >= min(shape[1:]):
            raise RequestError(
                f"data.augment.crop is {self.augment.crop}; on images of {shape[1]}×{shape[2]} it would leave nothing "
                "of some",
                "data.augment.crop",
            )

    def check_masks(self) -> None:
        """Raise RequestError if masks cannot be moved with the images."""
        cls = type(self.augment)
        own_call = cls is not Augment and cls.__call__ is not Augment.__call__
        if own_call and getattr(cls, "masks", Augment.masks) is Augment.masks:
            raise RequestError(
                f"data.augment is a {cls.__name__}, which changes images, and says nothing of their masks; give it a "
                "method masks(masks, drawn, ignored)",
                "data.augment",
            )

    def draw(self, count: int, seed: int, epoch: int, place: int) -> Tensor:
        """Return the random numbers of an epoch. The arguments are those of `Transform.draw`."""
        with seeded(torch.device("cpu"), seed, epoch, OWN) if self._is_own else nullcontext():
            return self.augment.draw(count, seed, epoch)

    def apply(
        self, images: Tensor, masks: Tensor | None, drawn: Tensor, ignored: int, counters: Sequence[int]
    ) -> tuple[Tensor, Tensor | None]:
        """Return the changed images and masks. The arguments are those of `Transform.apply`."""
        seed, epoch, _, rank, number, _ = counters
        own = (images.device, seed, epoch, OWN, rank, number)
        drawn = drawn.to(images.device)
        with seeded(*own) if self._is_own else nullcontext():
            images = self.augment(images, drawn)
        if masks is not None:
            with seeded(*own) if self._is_own else nullcontext():
                masks = self.augment.masks(masks, drawn, ignored)
        return images, masks
