"""Random changes to the brightness, the contrast, the saturation and the hue of the images of a batch."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lamella.data.transforms import Transform
from lamella.errors import RequestError

WEIGHTS = (0.2989, 0.587, 0.114)  # of red, green and blue in grey, as torchvision's rgb_to_grayscale has them


@dataclass(frozen=True)
class Color(Transform):
    """Changes the colours of images, by random amounts, in the order of the arguments.

    The arguments are those of torchvision's ColorJitter: brightness, contrast and saturation are multiplied by a factor
    from max(0, 1 - value) to 1 + value, and the hue is turned by at most `hue` of a full circle, 0.5 at the most.
    """

    numbers: ClassVar[int] = 4
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            most = 0.5 if name == "hue" else math.inf
            if not 0 <= value <= most or value == math.inf:
                raise RequestError(f"color.{name} is {value}; it takes {'0 to 0.5' if name == 'hue' else '0 or more'}")
        if not any(vars(self).values()):
            raise RequestError("color changes nothing; give it an amount, as in {color: {brightness: 0.2, hue: 0.1}}")

    def check(self, shape: Sequence[int]) -> None:
        for name in ("saturation", "hue"):
            if getattr(self, name) and shape[0] != 3:
                raise RequestError(
                    f"color.{name} is {getattr(self, name)}; it takes images of 3 channels, and data.shape has "
                    f"{shape[0]}; leave it out"
                )

    def __call__(self, images: Tensor, drawn: Tensor) -> Tensor:
        pixels, amounts = images.float(), (2 * drawn - 1).to(images.device, non_blocking=True)
        for number, (name, value) in enumerate(vars(self).items()):
            if value:
                amount = amounts[:, number, None, None, None] * value
                factor = (1 + amount).clamp(min=0)
                pixels = hue_turned(pixels, amount) if name == "hue" else blended(pixels, DULL[name](pixels), factor)
        return pixels.round_().to(torch.uint8)


def blended(pixels: Tensor, other: Tensor | float, factor: Tensor) -> Tensor:
    """Return a mixture: of a factor of 0 `other`, of 1 the pixels, above that more than the pixels. From 0 to 255."""
    return (other + factor * (pixels - other)).clamp_(0, 255)


def grey(pixels: Tensor) -> Tensor:
    """Return the brightness of each pixel (B, 1, height, width): for other than 3 channels, their mean."""
    if pixels.shape[1] != 3:
        return pixels.mean(1, keepdim=True)
    red, green, blue = torch.split(pixels, 1, 1)
    return WEIGHTS[0] * red + WEIGHTS[1] * green + WEIGHTS[2] * blue


def mean_grey(pixels: Tensor) -> Tensor:
    """Return the mean brightness of each image (B, 1, 1, 1)."""
    # The sum of whole numbers, because that of floats would depend on how many images are summed at once.
    total = grey(pixels).round().sum((2, 3), keepdim=True, dtype=torch.int64)
    return total / (pixels.shape[2] * pixels.shape[3])


def hue_turned(pixels: Tensor, amount: Tensor) -> Tensor:
    """Return images whose hues are turned, (B, 3, height, width). amount: in full circles, (B, 1, 1, 1)."""
    most, least = pixels.amax(1, keepdim=True), pixels.amin(1, keepdim=True)
    red, green, blue = torch.split(pixels, 1, 1)
    span = most - least
    step = torch.where(span > 0, span, 1.0)
    # The place on the circle in sixths, red at 0, green at 2 and blue at 4.
    sixths = torch.where(
        most == red,
        (green - blue) / step,
        torch.where(most == green, 2 + (blue - red) / step, 4 + (red - green) / step),
    )
    turned = sixths + 6 * amount
    # Each channel falls from its own place on the circle: by nothing within one sixth, and by all after two.
    places = torch.tensor([5.0, 3.0, 1.0], device=pixels.device).view(1, 3, 1, 1)
    distance = (turned + places).remainder(6)
    return most - span * torch.minimum(distance, 4 - distance).clamp(0, 1)


# What the factor of each amount blends with.
DULL: dict[str, Callable[[Tensor], Tensor | float]] = {
    "brightness": lambda pixels: 0.0,
    "contrast": mean_grey,
    "saturation": grey,
}
