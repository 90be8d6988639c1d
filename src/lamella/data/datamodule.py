"""The datamodule: the splits of a data set, checked against the config, and a loader for each split."""

import copy
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lamella.data.augment import Augment
from lamella.data.cache import map_images
from lamella.data.images import ImageFiles
from lamella.data.loader import Batches
from lamella.data.normalize import Normalize
from lamella.data.samples import Samples, Splits, split_samples
from lamella.errors import RequestError
from lamella.lightning_internals import batch_index

# Without gradients a batch needs a fraction of the memory, and larger batches take less time.
EVALUATION_FACTOR = 4


class Data(pl.LightningDataModule):
    """A datamodule that serves the training, validation and test batches of one data set.

    source: the splits. shape: of one sample, without the batch dimension. batch_size: of one optimizer step, over all
    devices. num_classes, classes: the number of classes, and their names. mean, std: one number for each channel, on
    the scale from 0 to 1, for uint8 inputs. val_size, test_size: a count or a fraction; so many training samples are
    taken, chosen by `split_seed`, if the source has no such split. augment: changes the training images. drop_last:
    leave out the last batch of an epoch if it is smaller than the others. in_memory: keep the inputs on the device;
    otherwise `num_workers` processes read them. cache: "memmap" keeps decoded image files in one file, from which
    batches are taken as from memory. seed: of the order of the samples and of the augmentation.

    The attribute `chunk` returns how many training batches are served as one Chunk, as the argument of Batches does.
    Raises RequestError if the samples and the config do not fit together.
    """

    def __init__(
        self,
        source: Splits,
        shape: Sequence[int],
        batch_size: int,
        num_classes: int,
        classes: Sequence[str] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        val_size: int | float = 0.1,
        test_size: int | float = 0.1,
        split_seed: int = 0,
        augment: Augment | None = None,
        drop_last: bool = False,
        in_memory: bool = True,
        cache: str | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.shape, self.batch_size, self.num_classes = tuple(shape), batch_size, num_classes
        self.classes = list(map(str, classes)) if classes is not None else list(map(str, range(num_classes)))
        self.augment, self.drop_last, self.seed = augment, drop_last, seed
        self.num_workers = None if in_memory or cache else num_workers
        self.chunk: Callable[[int], int] = lambda number: 1

        val, test = (part if part is None else _cached(part, cache) for part in (source.val, source.test))
        train = _cached(source.train, cache)
        if test is None:
            train, test = split_samples(train, test_size, split_seed + 1, "data.test_size")
        if val is None:
            train, val = split_samples(train, val_size, split_seed, "data.val_size")
        self.train, self.val, self.test = (_ready(samples, in_memory) for samples in (train, val, test))
        inputs = self.train.inputs
        self.images = not isinstance(inputs, Tensor) or inputs.dtype == torch.uint8
        self._check()
        self.normalize = Normalize.of(mean, std, self.shape) if self.images else None

    def _check(self) -> None:
        """Raise RequestError if the samples and the config do not fit together."""
        if self.batch_size < 1:
            raise RequestError(f"data.batch_size is {self.batch_size}; it takes 1 or more", "data.batch_size")
        if len(self.classes) != self.num_classes:
            raise RequestError(
                f"data.num_classes is {self.num_classes}, but data.classes names {len(self.classes)}",
                "data.num_classes",
            )
        if self.drop_last and self.batch_size > len(self.train):
            raise RequestError(
                f"data.batch_size is {self.batch_size}, more than the {len(self.train)} training samples, and "
                f"data.drop_last drops an unfinished batch: nothing would be trained",
                "data.batch_size",
            )
        if self.num_workers is not None and self.num_workers < 0:
            raise RequestError(f"data.num_workers is {self.num_workers}; it takes 0 or more", "data.num_workers")
        if self.augment and not self.images:
            raise RequestError("data.augment changes images, and these samples are none", "data.augment")
        if self.augment and self.augment.crop >= min(self.shape[1:]):
            raise RequestError(
                f"data.augment.crop is {self.augment.crop}; on images of {self.shape[1]}×{self.shape[2]} it would "
                "leave nothing of some",
                "data.augment.crop",
            )
        for name, samples in (("training", self.train), ("validation", self.val), ("test", self.test)):
            self._check_samples(name, samples)

    def _check_samples(self, name: str, samples: Samples) -> None:
        """Raise RequestError if the samples of a split do not fit the shape and the classes of the config."""
        labels = samples.targets
        if not len(labels) or len(samples.inputs) != len(labels):
            raise RequestError(f"data.source: {len(samples.inputs)} {name} samples have {len(labels)} targets", "data")
        shape = tuple(samples.inputs[torch.tensor([0])].shape[1:])
        if shape != self.shape:
            raise RequestError(
                f"data.shape is {list(self.shape)}, but the {name} samples are {list(shape)}", "data.shape"
            )
        if labels.dtype == torch.int64 and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            wrong = int(labels.max()) if int(labels.max()) >= self.num_classes else int(labels.min())
            raise RequestError(
                f"data.num_classes is {self.num_classes}, but a {name} label is {wrong}; "
                f"labels go from 0 to {self.num_classes - 1}",
                "data.num_classes",
            )

    def with_seed(self, seed: int) -> "Data":
        """Return a copy for another run that shares the samples, and orders and augments them by its own seed."""
        other = copy.copy(self)
        other.seed = seed
        return other

    def state_dict(self) -> dict[str, list[list[int]]]:
        """Return the number of samples and a checksum of the targets of each split, which a checkpoint contains.

        A run is resumed only if they are the same.
        """
        splits = (self.train, self.val, self.test)
        return {"targets": [[len(samples), zlib.crc32(samples.targets.numpy().tobytes())] for samples in splits]}

    def check_world(self, world: int) -> None:
        """Raise RequestError if `world` devices cannot share a batch equally, or one of them would have no samples."""
        if self.batch_size % world:
            raise RequestError(
                f"data.batch_size is {self.batch_size}, which {world} devices cannot share equally; "
                f"take a multiple of {world}",
                "data.batch_size",
            )
        for name, samples in (("training", self.train), ("validation", self.val), ("test", self.test)):
            if len(samples) < world:
                raise RequestError(
                    f"data: {len(samples)} {name} samples leave some of {world} devices without any", "data"
                )

    def batches(self, samples: Samples, **options: Any) -> Batches:
        """Return a loader of `samples` on the device of this process. options: further arguments of Batches."""
        trainer = self.trainer
        return Batches(
            samples,
            options.pop("batch_size", self.batch_size),
            normalize=self.normalize,
            rank=trainer.global_rank if trainer else 0,
            world=trainer.world_size if trainer else 1,
            device=trainer.strategy.root_device if trainer else "cpu",
            num_workers=self.num_workers,
            **options,
        )

    def train_dataloader(self) -> Batches:
        """Return the loader of the training batches."""
        trainer = self.trainer
        return self.batches(
            self.train,
            augment=self.augment,
            shuffle=True,
            drop_last=self.drop_last,
            seed=self.seed,
            # Lightning's overfit_batches takes the same batches in each epoch.
            epoch=lambda: trainer.current_epoch if trainer and not trainer.overfit_batches else 0,  # type: ignore[attr-defined]
            # A run that was interrupted in the middle of an epoch continues with the next batch.
            start=lambda: batch_index(trainer) + 1 if trainer else 0,
            chunk=self.chunk,
        )

    def val_dataloader(self) -> Batches:
        """Return the loader of the validation batches."""
        return self.batches(self.val, batch_size=EVALUATION_FACTOR * self.batch_size)

    def test_dataloader(self) -> Batches:
        """Return the loader of the test batches."""
        return self.batches(self.test, batch_size=EVALUATION_FACTOR * self.batch_size)

    def pixels(self, inputs: Tensor) -> Tensor:
        """Return served images (B, channels, height, width) on the scale from 0 to 1, to be shown."""
        if self.normalize is not None:
            normalize = self.normalize.to(inputs.device)
            return (inputs + normalize.shift) / normalize.scale / 255
        low, high = inputs.aminmax()
        return (inputs - low) / (high - low).clamp(min=1e-12)

    def transfer_batch_to_device(self, batch: object, device: torch.device, dataloader_idx: int) -> object:
        """Return the batch unchanged, because it was made on the device.

        Lightning's own method looks through each batch for tensors to move, which takes a tenth of a step.
        """
        return batch


def _cached(samples: Samples, cache: str | None) -> Samples:
    """Return samples whose image files are cached, if `cache` is "memmap". Raises RequestError."""
    if cache not in (None, "memmap"):
        raise RequestError(f"data.cache is {cache!r}; it takes memmap, or null for none", "data.cache")
    if cache and not isinstance(samples.inputs, ImageFiles):
        raise RequestError(
            "data.cache keeps decoded image files, and these samples are none; leave it null", "data.cache"
        )
    if cache and isinstance(samples.inputs, ImageFiles):
        return Samples(map_images(samples.inputs), samples.targets)
    return samples


def _ready(samples: Samples, in_memory: bool) -> Samples:
    """Return samples whose image files are decoded into memory or, if `in_memory` is false, have been checked."""
    if isinstance(samples.inputs, ImageFiles):
        if in_memory:
            return Samples(samples.inputs.load(), samples.targets)
        samples.inputs.check()
    return samples
