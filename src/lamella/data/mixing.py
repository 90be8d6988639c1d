"""Mix the images of a batch, and their classes with them: mixup and cutmix."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from torch import Tensor

from lamella.errors import RequestError
from lamella.seeds import numpy_generator


@dataclass(frozen=True)
class Mix:
    """Base of the transforms that mix each image of a batch with the one before it.

    The share of the other image is drawn for each batch from a beta distribution with both parameters `alpha`.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.alpha < float("inf"):
            raise RequestError(f"{self.name} is {self.alpha}; it takes a number above 0")

    @property
    def name(self) -> str:
        """Return the name in a config."""
        return type(self).__name__.lower()

    def __call__(self, images: Tensor, targets: Tensor, counters: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the mixed images and targets.

        images: float (B, channels, height, width). targets: the probability of each class, float (B, classes).
        counters: of the batch, on which the shares depend alone.
        """
        random = numpy_generator(*counters)
        images, share = self.mixed(images, images.roll(1, 0), random.beta(self.alpha, self.alpha), *random.random(2))
        return images, targets.lerp(targets.roll(1, 0), share)

    def mixed(self, images: Tensor, others: Tensor, share: float, down: float, right: float) -> tuple[Tensor, float]:
        """Return the images mixed with others, and the share of the others, which may differ a little from `share`.

        share, down, right: random numbers from 0 to 1.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Mixup(Mix):
    """Adds two images, each multiplied by its share (arXiv:1710.09412). alpha: as of `Mix`."""

    def mixed(self, images: Tensor, others: Tensor, share: float, down: float, right: float) -> tuple[Tensor, float]:
        return images.lerp(others, share), share


@dataclass(frozen=True)
class Cutmix(Mix):
    """Puts a rectangle of another image, at the same place, into an image (arXiv:1905.04899). alpha: as of `Mix`."""

    def mixed(self, images: Tensor, others: Tensor, share: float, down: float, right: float) -> tuple[Tensor, float]:
        height, width = images.shape[2:]
        rows, columns = (_part(place, sqrt(share), size) for place, size in ((down, height), (right, width)))
        images = images.clone()
        images[:, :, rows, columns] = others[:, :, rows, columns]
        return images, (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)


def _part(place: float, share: float, size: int) -> slice:
    """Return the part of a side of `size` pixels that a rectangle covers whose middle is in the image."""
    middle, half = int(place * size), int(share * size) / 2
    return slice(max(0, int(middle - half)), min(size, int(middle + half)))
