"""Random policies of many changes to an image: RandAugment and TrivialAugment, a whole batch at a time."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from lamella.data.color import blended, grey, mean_grey
from lamella.data.transforms import Transform, moved, moved_masks, rotations
from lamella.errors import RequestError

LEVELS = 31  # of the strength of a change, from none to the largest
MOVES = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
Pixels = Callable[[Tensor, Tensor], Tensor]


class _Policy(Transform):
    """Base of the policies. A subclass has the changes of torchvision's class of the same purpose.

    largest: how far each change goes at the most: shears, angles, factors beside 1, bits.
    """

    fills: ClassVar[bool] = True
    largest: ClassVar[Mapping[str, float]]

    def rounds(self, drawn: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the number of the change that each image gets (B,), and its strength from -1 to 1 (B,).

        drawn: as in `apply`.
        """
        raise NotImplementedError

    def reach(self, side: int) -> float:
        """Return the largest translation in pixels. side: the height or the width of the images."""
        raise NotImplementedError

    def __call__(self, images: Tensor, drawn: Tensor) -> Tensor:
        for which, strengths in self.rounds(drawn):
            images = images.clone()
            moves = (which < len(MOVES)).nonzero()[:, 0]
            if len(moves):
                chosen = moves.to(images.device, non_blocking=True)
                images[chosen] = moved(images[chosen], self._matrices(which[moves], strengths[moves], images))
            for number, (name, change) in enumerate(CHANGES.items(), len(MOVES)):
                places = (which == number).nonzero()[:, 0]
                if len(places):
                    chosen = places.to(images.device, non_blocking=True)
                    amounts = (strengths[places] * self.largest.get(name, 1.0)).to(images.device, non_blocking=True)
                    images[chosen] = change(images[chosen], amounts.view(-1, 1, 1, 1))
        return images

    def masks(self, masks: Tensor, drawn: Tensor, ignored: int) -> Tensor:
        for which, strengths in self.rounds(drawn):
            moves = (which < len(MOVES)).nonzero()[:, 0]
            if len(moves):
                chosen, matrices = (
                    moves.to(masks.device, non_blocking=True),
                    self._matrices(which[moves], strengths[moves], masks),
                )
                masks = masks.index_copy(0, chosen, moved_masks(masks[chosen], matrices, ignored))
        return masks

    def _matrices(self, which: Tensor, strengths: Tensor, images: Tensor) -> Tensor:
        """Return the matrices of changes that move pixels, as `moved` takes them (B, 2, 3)."""
        height, width = images.shape[-2:]
        largest = {**self.largest, "translate_x": self.reach(width), "translate_y": self.reach(height)}
        amounts = {name: strengths * largest[name] * (which == number) for number, name in enumerate(MOVES)}
        matrices = rotations(amounts["rotate"])
        matrices[:, 0, 1] += amounts["shear_x"]
        matrices[:, 1, 0] += amounts["shear_y"]
        matrices[:, 0, 2] += amounts["translate_x"]
        matrices[:, 1, 2] += amounts["translate_y"]
        return matrices


def _largest(shear: float, angle: float, factor: float, bits: float) -> dict[str, float]:
    factors = dict.fromkeys(("brightness", "color", "contrast", "sharpness"), factor)
    return {"shear_x": shear, "shear_y": shear, "rotate": angle, **factors, "posterize": bits}


@dataclass(frozen=True)
class RandAugment(_Policy):
    """Changes each image `num_ops` times, each time by one of 14 changes (arXiv:1909.13719).

    magnitude: the strength of all changes, from 0 to 30.
    """

    num_ops: int = 2
    magnitude: int = 9
    largest: ClassVar[Mapping[str, float]] = _largest(shear=0.3, angle=30.0, factor=0.9, bits=4.0)

    def __post_init__(self) -> None:
        if self.num_ops < 1:
            raise RequestError(f"randaugment.num_ops is {self.num_ops}; it takes 1 or more")
        if not 0 <= self.magnitude < LEVELS:
            raise RequestError(f"randaugment.magnitude is {self.magnitude}; it takes 0 to {LEVELS - 1}")

    @property
    def numbers(self) -> int:  # type: ignore[override]
        """Return how many random numbers an image takes."""
        return 2 * self.num_ops

    def rounds(self, drawn: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for numbers in torch.split(drawn, 2, 1):
            yield _change(numbers[:, 0]), _signed(self.magnitude / (LEVELS - 1), numbers[:, 1])

    def reach(self, side: int) -> float:
        return side * 150 / 331


@dataclass(frozen=True)
class TrivialAugment(_Policy):
    """Changes each image once, by a change and a strength that are drawn for it (arXiv:2103.10158)."""

    numbers: ClassVar[int] = 3
    largest: ClassVar[Mapping[str, float]] = _largest(shear=0.99, angle=135.0, factor=0.99, bits=6.0)

    def rounds(self, drawn: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        strengths = (drawn[:, 1] * LEVELS).long() / (LEVELS - 1)
        yield _change(drawn[:, 0]), _signed(strengths, drawn[:, 2])

    def reach(self, side: int) -> float:
        return 32.0


def _change(drawn: Tensor) -> Tensor:
    return (drawn * (len(MOVES) + len(CHANGES))).long()


def _signed(strength: Tensor | float, drawn: Tensor) -> Tensor:
    return torch.where(drawn < 0.5, strength, -strength)


def _blend(dull: Callable[[Tensor], Tensor | float]) -> Pixels:
    """Return the change that moves images towards what `dull` makes of them, or away from it."""

    def change(images: Tensor, amounts: Tensor) -> Tensor:
        pixels = images.float()
        return blended(pixels, dull(pixels), 1 + amounts).round_().to(torch.uint8)

    return change


def _smooth(pixels: Tensor) -> Tensor:
    """Return images of which each pixel but those at the border is a mean with its neighbours."""
    if min(pixels.shape[2:]) < 3:
        return pixels
    channels = pixels.shape[1]
    kernel = torch.ones(channels, 1, 3, 3, device=pixels.device)
    kernel[:, :, 1, 1] = 5
    smooth = pixels.clone()
    smooth[:, :, 1:-1, 1:-1] = conv2d(pixels, kernel, groups=channels) / 13
    return smooth


def _posterize(images: Tensor, amounts: Tensor) -> Tensor:
    dropped = amounts.abs().round().to(torch.uint8)
    return images >> dropped << dropped


def _solarize(images: Tensor, amounts: Tensor) -> Tensor:
    return torch.where(images >= 255 * (1 - amounts.abs()), 255 - images, images)


def _autocontrast(images: Tensor, amounts: Tensor) -> Tensor:
    from torchvision.transforms.v2.functional import autocontrast

    changed: Tensor = autocontrast(images)
    return changed


def _equalize(images: Tensor, amounts: Tensor) -> Tensor:
    from torchvision.transforms.v2.functional import equalize

    changed: Tensor = equalize(images)
    return changed


CHANGES: dict[str, Pixels] = {
    "identity": lambda images, amounts: images,
    "brightness": _blend(lambda pixels: 0.0),
    "color": _blend(grey),
    "contrast": _blend(mean_grey),
    "sharpness": _blend(_smooth),
    "posterize": _posterize,
    "solarize": _solarize,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
}
