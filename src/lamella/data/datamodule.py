"""Data, as the Trainer takes it: splits checked against the config, and a loader for each."""

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

# Without gradients a batch needs a fraction of the memory, and fewer of them cost less.
EVALUATION_FACTOR = 4


class Data(pl.LightningDataModule):
    """Training, validation and test batches of one data set.

    source: the splits. shape: of one sample, without the batch dimension. mean, std: one number a channel, on the
    scale 0 to 1, for uint8 inputs. batch_size: of one optimizer step, over all devices. val_size, test_size: a count
    or a fraction, cut off the training samples by `split_seed` where the source has no such split. in_memory: hold
    the inputs on the device; otherwise `num_workers` processes read them. cache: "memmap" keeps image files decoded in
    a file, from which batches are taken as from memory. seed: orders and augments. The attribute `chunk` says how many
    training batches are served as one, as Batches has it.

    Raises RequestError where the samples and the config do not fit.
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
            labels = samples.targets
            if not len(labels) or len(samples.inputs) != len(labels):
                raise RequestError(
                    f"data.source: {len(samples.inputs)} {name} samples have {len(labels)} targets", "data"
                )
            found = tuple(samples.inputs[torch.tensor([0])].shape[1:])
            if found != self.shape:
                raise RequestError(
                    f"data.shape is {list(self.shape)}, but the {name} samples are {list(found)}", "data.shape"
                )
            if labels.dtype == torch.int64 and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
                wrong = int(labels.max()) if int(labels.max()) >= self.num_classes else int(labels.min())
                raise RequestError(
                    f"data.num_classes is {self.num_classes}, but a {name} label is {wrong}; "
                    f"labels go from 0 to {self.num_classes - 1}",
                    "data.num_classes",
                )

    def ordered(self, seed: int) -> "Data":
        """The same samples, read once, for another run: in the order, and with the augmentation, of its own seed."""
        other = copy.copy(self)
        other.seed = seed
        return other

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, so that a run does not go on with other samples."""
        splits = (self.train, self.val, self.test)
        return {"targets": [[len(samples), zlib.crc32(samples.targets.numpy().tobytes())] for samples in splits]}

    def check_world(self, world: int) -> None:
        """Raise RequestError where a batch cannot be shared equally by `world` devices, or one would be left idle."""
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
        trainer = self.trainer
        return self.batches(
            self.train,
            augment=self.augment,
            shuffle=True,
            drop_last=self.drop_last,
            seed=self.seed,
            epoch=lambda: trainer.current_epoch if trainer else 0,
            # A run that was interrupted in the middle of an epoch goes on with the batch that comes next.
            start=lambda: trainer.fit_loop.batch_idx + 1 if trainer else 0,
            chunk=self.chunk,
        )

    def val_dataloader(self) -> Batches:
        return self.batches(self.val, batch_size=EVALUATION_FACTOR * self.batch_size)

    def test_dataloader(self) -> Batches:
        return self.batches(self.test, batch_size=EVALUATION_FACTOR * self.batch_size)

    def pixels(self, inputs: Tensor) -> Tensor:
        """Images as they were served, (B, channels, height, width), back on the scale from 0 to 1."""
        if self.normalize is not None:
            normalize = self.normalize.to(inputs.device)
            return (inputs + normalize.shift) / normalize.scale / 255
        low, high = inputs.aminmax()
        return (inputs - low) / (high - low).clamp(min=1e-12)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Batches are made on the device; looking through each for tensors to move would cost a tenth of a step."""
        return batch


def _cached(samples: Samples, cache: str | None) -> Samples:
    if cache not in (None, "memmap"):
        raise RequestError(f"data.cache is {cache!r}; it takes memmap, or null for none", "data.cache")
    if cache and not isinstance(samples.inputs, ImageFiles):
        raise RequestError(
            "data.cache keeps decoded image files, and these samples are none; leave it null", "data.cache"
        )
    return (
        Samples(map_images(samples.inputs), samples.targets)
        if isinstance(samples.inputs, ImageFiles) and cache
        else samples
    )


def _ready(samples: Samples, in_memory: bool) -> Samples:
    if isinstance(samples.inputs, ImageFiles):
        if in_memory:
            return Samples(samples.inputs.load(), samples.targets)
        samples.inputs.check()
    return samples
