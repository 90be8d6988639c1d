"""Call a transform of torchvision, or of one's own, with every random generator seeded for each sample or batch."""

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lamella.errors import RequestError, first_line, own_frames
from lamella.seeds import OWN, generator, kept_random_state, mixed, reseed


@dataclass(frozen=True)
class External:
    """A transform that draws from the generators of torch, NumPy and Python, and does not know Lamella's.

    transform: takes an image, uint8 (channels, height, width), and returns one of the same shape and type; where masks
    move with the images, it is a torchvision.transforms.v2.Transform, or takes (image, mask) and returns both. per:
    "sample" to call it with each image, or "batch" to call it once with all images (B, channels, height, width).
    """

    transform: Callable[..., object]
    per: Literal["sample", "batch"] = "sample"

    def __post_init__(self) -> None:
        if not callable(self.transform):
            raise RequestError(f"{self._title()} cannot be called; give it a method __call__(image)")
        if self.per not in ("sample", "batch"):
            raise RequestError(f"per is {self.per!r}; it takes sample or batch")

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in getattr(self.transform, "keywords", {}).items())
        text = repr(self.transform) if isinstance(self.transform, nn.Module) else f"{self._title()}({arguments})"
        return text + " for each batch" * (self.per == "batch")

    @property
    def fills(self) -> bool:
        """Return whether pixels may come in from outside of the image, as far as torchvision's transforms tell."""
        return any(hasattr(part, "fill") for part in _parts(self.transform))

    def check(self, shape: Sequence[int]) -> None:
        """Take images of any shape; what does not fit is found when the transform is called."""

    def check_masks(self) -> None:
        """Raise RequestError if the transform cannot move masks with the images."""
        if not self._is_v2() and _required(self.transform) != 2:
            raise RequestError(
                f"{self._title()} says nothing of masks; let it take (image, mask) and return both, or make it a "
                "torchvision.transforms.v2.Transform"
            )
        for part in _parts(self.transform):
            if (fill := getattr(part, "fill", 0)) not in (0, None):
                raise RequestError(
                    f"{type(part).__name__} has fill={fill}, which the masks would get too; leave it out: images then "
                    "get black, and masks get data.ignored"
                )

    def draw(self, count: int, seed: int, epoch: int, place: int) -> Tensor:
        """Return a seed for each sample of an epoch, int64 (count,). The arguments are those of `Transform.draw`."""
        return torch.randint(2**63 - 1, (count,), generator=generator(seed, epoch, OWN, place))

    def apply(
        self, images: Tensor, masks: Tensor | None, drawn: Tensor, ignored: int, counters: Sequence[int]
    ) -> tuple[Tensor, Tensor | None]:
        """Return the changed images and masks. The arguments are those of `Transform.apply`.

        Raises RequestError where the transform fails, or gives something else than what it got.
        """
        with kept_random_state(images.device), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of transforms of torchvision that leave masks as they are
            if self.per == "batch":
                reseed(mixed(*counters), images.device)
                return self._called(images, masks, ignored)
            changed = []
            for number, seed in enumerate(drawn.tolist()):
                reseed(seed, images.device)
                changed.append(self._called(images[number], None if masks is None else masks[number], ignored))
        moved = None if masks is None else torch.stack([mask for _, mask in changed if mask is not None])
        return torch.stack([image for image, _ in changed]), moved

    def _called(self, image: Tensor, mask: Tensor | None, ignored: int) -> tuple[Tensor, Tensor | None]:
        """Return what becomes of an image and its mask, or of several."""
        try:
            if mask is None:
                return self._checked(self.transform(image), image, "an image"), None
            if self._is_v2():
                from torchvision.tv_tensors import Image, Mask

                # What comes in from outside is 0 in both: black, and once `ignored` is added again, `ignored`.
                both = self.transform(Image(image), Mask(mask - ignored))
            else:
                both = self.transform(image, mask)
            if not isinstance(both, tuple | list) or len(both) != 2:
                raise RequestError(f"{self._title()} returns {_described(both)} for an image and a mask; return both")
            found = self._checked(both[1], mask, "a mask")
            return self._checked(both[0], image, "an image"), found + ignored if self._is_v2() else found
        except RequestError:
            raise
        except Exception as error:
            raise RequestError(
                f"{self._title()} fails for {_described(image)}: {first_line(error)}{own_frames(error)}"
            ) from error

    def _checked(self, found: object, given: Tensor, noun: str) -> Tensor:
        """Return the plain tensor that the transform has given. Raises RequestError if its shape or type is another."""
        if not isinstance(found, Tensor) or found.shape != given.shape or found.dtype != given.dtype:
            raise RequestError(
                f"{self._title()} makes {_described(found)} of {noun}, {_described(given)}; a transform keeps the "
                "shape and the type"
            )
        return found.as_subclass(Tensor).to(given.device)

    def _is_v2(self) -> bool:
        from torchvision.transforms.v2 import Transform  # takes two seconds, where nothing else has imported it

        return isinstance(self.transform, Transform)

    def _title(self) -> str:
        called = getattr(self.transform, "func", self.transform)  # of a function with arguments
        return str(getattr(called, "__name__", type(called).__name__))


def _parts(transform: object) -> Iterator[object]:
    """Yield a transform, and those that it calls, as v2.Compose does."""
    yield transform
    for part in getattr(transform, "transforms", ()):
        yield from _parts(part)


def _required(function: Callable[..., object]) -> int:
    """Return how many arguments a function needs."""
    called = function.forward if isinstance(function, nn.Module) else function
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(called).parameters.values()
    return sum(one.kind in kinds and one.default is one.empty for one in parameters)


def _described(value: object) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
