"""Random changes to the images of a batch, each image in its own way, and to their masks: crop, flip, rotate, erase."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, pad

from lamella.errors import RequestError
from lamella.seeds import AUGMENT, generator


class Transform:
    """Base of the transforms that change all images of a batch in one call.

    A subclass defines `__call__`, and `masks` where it moves pixels. numbers: how many random numbers an image takes.
    fills: whether pixels come in from outside of the image. A constructor raises RequestError for a value that makes no
    sense.
    """

    numbers: ClassVar[int] = 1
    fills: ClassVar[bool] = False

    def draw(self, count: int, seed: int, epoch: int, place: int) -> Tensor:
        """Return random numbers from 0 to 1 for an epoch, float32 (count, numbers).

        Those of a sample depend on the seed, the epoch, the place in the list of transforms and the index of the sample
        alone.
        """
        return torch.rand(count, self.numbers, generator=generator(seed, epoch, AUGMENT, place))

    def check(self, shape: Sequence[int]) -> None:
        """Raise RequestError for images of this shape (channels, height, width) that cannot be changed."""

    def apply(
        self, images: Tensor, masks: Tensor | None, drawn: Tensor, ignored: int, counters: Sequence[int]
    ) -> tuple[Tensor, Tensor | None]:
        """Return the changed images and masks, of the same shapes and types.

        images: uint8 (B, channels, height, width). masks: class indices, int64 (B, height, width), or None. drawn: the
        random numbers of these samples (B, numbers), on the CPU; what is made of them is copied to the device of the
        images without waiting for it. ignored: the class index of the pixels that come into a mask from outside.
        counters: of the batch, for what is drawn for it as a whole.
        """
        return self(images, drawn), None if masks is None else self.masks(masks, drawn, ignored)

    def __call__(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return the changed images. images, drawn: as in `apply`."""
        raise NotImplementedError

    def masks(self, masks: Tensor, drawn: Tensor, ignored: int) -> Tensor:
        """Return the masks of images that `__call__` has changed. masks, drawn, ignored: as in `apply`."""
        return masks


@dataclass(frozen=True)
class Crop(Transform):
    """Adds pixels on each side, and cuts out a random window of the old size.

    padding: their number. reflect: whether they mirror the image at its border, which keeps the border itself single;
    otherwise they are black.
    """

    numbers: ClassVar[int] = 2
    padding: int
    reflect: bool = False

    def __post_init__(self) -> None:
        if self.padding < 1:
            raise RequestError(f"crop is {self.padding}; it takes 1 pixel or more")

    @property
    def fills(self) -> bool:  # type: ignore[override]
        """Return whether pixels come in from outside of the image."""
        return not self.reflect

    def check(self, shape: Sequence[int]) -> None:
        if self.padding >= min(shape[1:]):
            raise RequestError(f"crop is {self.padding}; on images of {_size(shape)} it would leave nothing of some")

    def __call__(self, images: Tensor, drawn: Tensor) -> Tensor:
        return self._windows(images, drawn, 0)

    def masks(self, masks: Tensor, drawn: Tensor, ignored: int) -> Tensor:
        return self._windows(masks[:, None], drawn, ignored)[:, 0]

    def _windows(self, images: Tensor, drawn: Tensor, border: int) -> Tensor:
        padded = reflected(images, self.padding) if self.reflect else pad(images, (self.padding,) * 4, value=border)
        count, channels, rows, columns = padded.shape
        height, width = images.shape[2:]
        down, right = (drawn * (2 * self.padding + 1)).long().unbind(1)
        first = torch.arange(count) * (channels * rows * columns) + down * columns + right
        # A view in which every pixel begins a window, so that each image is copied by rows, and not by pixels.
        last = (channels - 1) * rows * columns + (height - 1) * columns + width - 1
        strides = (1, rows * columns, columns, 1)
        windows = padded.as_strided((padded.numel() - last, channels, height, width), strides)
        return windows.index_select(0, first.to(images.device, non_blocking=True))


@dataclass(frozen=True)
class Flip(Transform):
    """Mirrors images left to right. p: how likely that is for an image.

    alternate: whether an image is mirrored in every second epoch, so that two epochs show both sides of each image
    (Jordan 2024, arXiv:2404.00498). Which side comes first is drawn once for each image.
    """

    p: float = 0.5
    alternate: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.p <= 1:
            raise RequestError(f"flip is {self.p}; it takes a probability above 0, up to 1")
        if self.alternate and self.p != 0.5:
            raise RequestError(
                f"flip.alternate mirrors every second time, and flip.p is {self.p}; leave one of them out"
            )

    def draw(self, count: int, seed: int, epoch: int, place: int) -> Tensor:
        if not self.alternate:
            return super().draw(count, seed, epoch, place)
        drawn = super().draw(count, seed, 0, place)
        return 1 - drawn if epoch % 2 else drawn

    def __call__(self, images: Tensor, drawn: Tensor) -> Tensor:
        chosen = (drawn[:, 0] < self.p).nonzero()[:, 0].to(images.device, non_blocking=True)
        return images.index_copy(0, chosen, images.index_select(0, chosen).flip(-1))

    def masks(self, masks: Tensor, drawn: Tensor, ignored: int) -> Tensor:
        return self(masks, drawn)


@dataclass(frozen=True)
class Rotate(Transform):
    """Rotates images about their middle, with black behind them. degrees: the largest angle, in both directions."""

    fills: ClassVar[bool] = True
    degrees: float

    def __post_init__(self) -> None:
        if not 0 < self.degrees <= 180:
            raise RequestError(f"rotate is {self.degrees}; it takes an angle above 0, up to 180 degrees")

    def __call__(self, images: Tensor, drawn: Tensor) -> Tensor:
        return moved(images, self._matrices(drawn))

    def masks(self, masks: Tensor, drawn: Tensor, ignored: int) -> Tensor:
        return moved_masks(masks, self._matrices(drawn), ignored)

    def _matrices(self, drawn: Tensor) -> Tensor:
        return rotations((2 * drawn[:, 0] - 1) * self.degrees)


@dataclass(frozen=True)
class Erase(Transform):
    """Blackens a square at a random place, of which a part may be outside of the image: cutout (arXiv:1708.04552).

    size: its height and width in pixels. Its middle is in the image. Masks stay as they are.
    """

    numbers: ClassVar[int] = 2
    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise RequestError(f"erase is {self.size}; it takes 1 pixel or more")

    def check(self, shape: Sequence[int]) -> None:
        if self.size >= min(shape[1:]):
            raise RequestError(f"erase is {self.size}; on images of {_size(shape)} it would leave nothing of some")

    def __call__(self, images: Tensor, drawn: Tensor) -> Tensor:
        count, channels, height, width = images.shape
        middle = (drawn * torch.tensor([height, width])).long()
        side = torch.arange(self.size) - self.size // 2
        # What is outside becomes the pixel at the border, which is in the square too.
        rows = (middle[:, :1] + side).clamp(0, height - 1)[:, None, :, None]
        columns = (middle[:, 1:] + side).clamp(0, width - 1)[:, None, None, :]
        planes = torch.arange(count * channels).view(count, channels, 1, 1) * (height * width)
        places = (planes + rows * width + columns).flatten()
        places = places.to(images.device, non_blocking=True)
        return images.contiguous().view(-1).index_fill(0, places, 0).view_as(images)


def reflected(images: Tensor, padding: int) -> Tensor:
    """Return images (B, channels, height, width) of any type with mirrored pixels on each side.

    padding: how many, fewer than there are rows and columns. torch's `pad` mirrors floats alone.
    """
    for dim in (2, 3):
        size = images.shape[dim]
        places = torch.arange(-padding, size + padding, device=images.device).abs()
        images = images.index_select(dim, torch.minimum(places, 2 * (size - 1) - places))
    return images


def rotations(degrees: Tensor) -> Tensor:
    """Return the matrices of rotations, as `moved` takes them (B, 2, 3). degrees: of the angles (B,)."""
    radians = degrees * (torch.pi / 180)
    sin, cos, zero = radians.sin(), radians.cos(), torch.zeros_like(radians)
    return torch.stack([cos, -sin, zero, sin, cos, zero], 1).view(-1, 2, 3)


def moved(images: Tensor, matrices: Tensor) -> Tensor:
    """Return images (B, channels, height, width) whose pixels are moved, uint8, with black behind them.

    images: uint8. matrices: turn the place of a pixel in the result into the place that it is taken from (B, 2, 3);
    places are to the right of the middle of the image and below it, in pixels. Between pixels, values are interpolated.
    """
    pixels = images.float()
    return grid_sample(pixels, _grid(pixels, matrices), align_corners=False).round_().to(torch.uint8)


def moved_masks(masks: Tensor, matrices: Tensor, ignored: int) -> Tensor:
    """Return masks (B, height, width) that are moved as `moved` moves images, by nearest neighbour.

    masks: class indices, int64. ignored: the class index behind them.
    """
    shifted = (masks - ignored)[:, None].float()  # grid_sample puts zeros where nothing was
    grid = _grid(shifted, matrices)
    return grid_sample(shifted, grid, "nearest", align_corners=False)[:, 0].long() + ignored


def _grid(images: Tensor, matrices: Tensor) -> Tensor:
    """Return the places from which the pixels of moved images are taken, as grid_sample takes them."""
    height, width = images.shape[2:]
    # affine_grid measures in half sides.
    sides = torch.tensor([width, height]) / 2
    scaled = matrices * torch.cat([sides, torch.ones(1)]) / sides[:, None]
    return affine_grid(scaled.to(images.device, non_blocking=True), list(images.shape), False)


def _size(shape: Sequence[int]) -> str:
    return f"{shape[1]}×{shape[2]}"
