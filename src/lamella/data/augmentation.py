"""The augmentation of training batches: transforms in the order of a list, and in the end a mixture of images."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor
from torch.nn.functional import one_hot

from lamella.data.augment import Augment, Recorded
from lamella.data.external import External
from lamella.data.mixing import Mix
from lamella.data.samples import Shape
from lamella.data.transforms import Transform
from lamella.errors import RequestError
from lamella.seeds import AUGMENT, numpy_generator

KEY = "data.augment"
Listed = Transform | External | Mix


class Augmentation:
    """Changes the training batches of a run. What it draws at random depends on counters alone.

    transforms: applied to pixels of uint8, in their order. Those that mix come last, and each batch gets one of them.
    classes: how many there are. Raises RequestError for another order.
    """

    def __init__(self, transforms: Sequence[Listed] | Augment, classes: int) -> None:
        listed = [Recorded(transforms)] if isinstance(transforms, Augment) else list(transforms)
        self.mixes = [one for one in listed if isinstance(one, Mix)]
        self.transforms = [one for one in listed if not isinstance(one, Mix)]
        self.classes = classes
        for place, one in enumerate(listed[: len(self.transforms)]):
            if isinstance(one, Mix):
                raise RequestError(
                    f"{KEY}.{place}: {one.name} mixes the images that the other transforms give; write it last",
                    f"{KEY}.{place}",
                )

    @property
    def listed(self) -> list[Listed | Recorded]:
        """Return all transforms in their order."""
        return [*self.transforms, *self.mixes]

    @property
    def fills(self) -> bool:
        """Return whether pixels come in from outside of the images."""
        return any(one.fills for one in self.transforms)

    def check(self, images: bool, shape: Shape) -> None:
        """Raise RequestError for samples of this shape that cannot be changed. images: whether they are pixels."""
        if not images or isinstance(shape, dict) or len(shape) != 3:
            raise RequestError(f"{KEY} changes images, and these samples are none", KEY)
        for place, one in enumerate(self.transforms):
            with named(f"{KEY}.{place}"):
                one.check(shape)

    def check_masks(self, ignored: int) -> None:
        """Raise RequestError if masks cannot be moved with the images. ignored: as in `Data`."""
        for place, one in enumerate(self.transforms):
            if not isinstance(one, Transform):
                with named(f"{KEY}.{place}"):
                    one.check_masks()
        if ignored < 0 and self.fills:
            raise RequestError(
                f"{KEY} brings pixels without a class into the masks, and data.ignored is {ignored}; write "
                f"data.ignored=255, or {KEY}=[flip]",
                "data.ignored",
            )

    def check_targets(self, shape: Sequence[int]) -> None:
        """Raise RequestError for targets of this shape, which may be pictures that would not move with the images."""
        if len(shape) > 1:
            raise RequestError(
                f"{KEY} would move the pixels of the inputs, but not those of the targets, which are {list(shape)}; "
                "leave it out, or give a class index for each pixel",
                KEY,
            )

    def check_mixing(self, has_classes: bool, batch_size: int) -> None:
        """Raise RequestError if there is nothing to mix. has_classes: whether the target of a sample is a class."""
        for place, mix in enumerate(self.mixes, len(self.transforms)):
            why = "has nothing to mix where data.batch_size is 1" if batch_size < 2 else ""
            if self.classes < 2:
                why = f"mixes the classes of images, and data.num_classes is {self.classes}"
            if not has_classes:
                why = "mixes the classes of images, and the target of an image is no class here"
            if why:
                raise RequestError(f"{KEY}.{place}: {mix.name} {why}; leave it out", f"{KEY}.{place}")

    def for_epoch(self, count: int, seed: int, epoch: int, rank: int) -> "EpochAugmentation":
        """Return the augmentation of the batches of an epoch. count: of all training samples. rank: of this process."""
        drawn = [one.draw(count, seed, epoch, place) for place, one in enumerate(self.transforms)]
        return EpochAugmentation(self, drawn, (seed, epoch, AUGMENT, rank))


class EpochAugmentation:
    """Changes the batches of one epoch, in any order and in any process.

    drawn: what each transform has drawn for each sample. counters: of the epoch and the process.
    """

    def __init__(self, augmentation: Augmentation, drawn: Sequence[Tensor], counters: tuple[int, ...]) -> None:
        self.augmentation, self.drawn, self.counters = augmentation, drawn, counters

    def change(
        self, images: Tensor, masks: Tensor | None, ignored: int | None, indices: Tensor, number: int
    ) -> tuple[Tensor, Tensor | None]:
        """Return the changed images and masks.

        images: uint8 (B, channels, height, width). masks: class indices, int64 (B, height, width), or None. ignored:
        the class index of the pixels that come into a mask from outside. indices: of the samples, on the CPU (B,).
        number: of the batch. Raises RequestError where a transform fails.
        """
        for place, (transform, drawn) in enumerate(zip(self.augmentation.transforms, self.drawn, strict=True)):
            with named(f"{KEY}.{place}"):
                counters = (*self.counters, number, place)
                images, masks = transform.apply(images, masks, drawn[indices], ignored or 0, counters)
        return images, masks

    def mix(self, images: Tensor, targets: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Return the mixed images and targets, or all as it is where nothing is to be mixed.

        images: normalised (B, channels, height, width). targets: class indices (B,), which become probabilities of the
        classes, float32 (B, classes). number: of the batch.
        """
        mixes = self.augmentation.mixes
        if not mixes:
            return images, targets
        first = len(self.drawn)
        chosen = numpy_generator(*self.counters, number, first).randint(len(mixes))
        mix, counters = mixes[chosen], (*self.counters, number, first + 1 + chosen)
        return mix(images, one_hot(targets, self.augmentation.classes).to(images.dtype), counters)


@contextmanager
def named(key: str) -> Iterator[None]:
    """Give the errors of the block that blame no key this one."""
    try:
        yield
    except RequestError as error:
        if error.key:
            raise
        raise RequestError(f"{key}: {error}", key) from error
