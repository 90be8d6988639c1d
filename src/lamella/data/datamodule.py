"""The datamodule: the splits of a data set, checked against the config, and a loader for each split."""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lamella.data.augment import Augment
from lamella.data.augmentation import Augmentation, Listed
from lamella.data.checks import check_batches, check_files, check_samples, check_world, class_names, kind
from lamella.data.duplicates import leak_notes
from lamella.data.fingerprint import Checksums, Fingerprint, differences
from lamella.data.folds import Folds
from lamella.data.loader import Batches
from lamella.data.normalize import Normalize
from lamella.data.readable import check_headers, readable, together, without_unreadable
from lamella.data.sampler import class_weights
from lamella.data.samples import Encoder, Samples, Shape, Splits, cut_splits, input_type, plain_shape, written_shape
from lamella.data.summary import class_notes, count_text
from lamella.errors import RequestError
from lamella.lightning_internals import batch_index

# The splits that a stage of the Trainer reads. If a test follows the training, it should not fail then.
STAGES = {"fit": ("train", "val", "test"), "validate": ("val",), "test": ("test",)}
# Without gradients a batch needs a fraction of the memory, and larger batches take less time.
EVALUATION_FACTOR = 4


class Data(pl.LightningDataModule):
    """A datamodule that serves the training, validation and test batches of one data set.

    source: the splits. shape: of one sample, without the batch dimension, or a mapping of the names of the inputs to
    shapes; None to take that of the samples. dtype: the type as which the inputs are served, "float32", "int64" or
    "bool", or a mapping. reconstruct: serve the inputs as the targets too. ignored: the class index of samples or
    positions that do not count, as torch's `ignore_index`. batch_size: of one optimizer step, over all devices.
    num_classes, classes: the number of classes, and their names. mean, std: one number for each channel or one for all,
    on the scale from 0 to 1, for uint8 inputs. val_size, test_size: a count or a fraction; so many training samples are
    taken, chosen by `split_seed`, if the source has no such split; with a val_size of 0 there is no validation. folds,
    fold, group_duplicates: as in `Folds.of`, by which a fold validates. augment: the transforms of the training images,
    in their order. drop_last: leave out the last batch of an epoch if it is smaller than the others. in_memory: keep
    the inputs on the device; otherwise `num_workers` processes read them and change them by `augment`. cache: "memmap"
    keeps decoded image files in one file, from which batches are taken as from memory. skip_unreadable: leave out image
    files that cannot be decoded, for which all are decoded here. seed: of the order of the samples and of the
    augmentation. sampler: "balanced", or a weight for each class, by which each epoch draws its training samples with
    replacement; None takes each sample once. encoder: takes the place of that of the source, and is fitted already.

    Image files are decoded when a Trainer calls `setup`, for the splits that it reads; without a Trainer, each batch is
    decoded when it is served. The attribute `tests` says whether a test follows the training, `chunk` returns how many
    training batches are served as one Chunk, as the argument of Batches does, and `overfit` says that each epoch takes
    the batches of the first one, also for the validation. Raises RequestError if the samples and the config do not fit
    together.
    """

    def __init__(
        self,
        source: Splits,
        shape: Sequence[int] | Mapping[str, Sequence[int]] | None,
        batch_size: int,
        num_classes: int = 0,
        classes: Sequence[str] | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        val_size: int | float = 0.1,
        test_size: int | float = 0.1,
        split_seed: int = 0,
        augment: Sequence[Listed] | Augment | None = None,
        drop_last: bool = False,
        in_memory: bool = True,
        cache: str | None = None,
        num_workers: int = 0,
        skip_unreadable: bool = False,
        seed: int = 0,
        dtype: str | Mapping[str, str] = "float32",
        reconstruct: bool = False,
        ignored: int = -100,
        sampler: str | Sequence[float] | None = None,
        encoder: Encoder | None = None,
        folds: int | None = None,
        fold: int | None = None,
        group_duplicates: bool = False,
    ) -> None:
        super().__init__()
        self.batch_size, self.num_classes, self.reconstructs = batch_size, num_classes, reconstruct
        self.input_type, self.ignored = input_type(dtype), ignored
        self.classes = class_names(num_classes, classes)
        self.augment = Augmentation(augment, num_classes) if augment else None
        self.drop_last, self.seed = drop_last, seed
        self.in_memory, self.cache, self.workers = in_memory, cache, num_workers
        self.num_workers = None if in_memory or cache else num_workers
        self.chunk: Callable[[int], int] = lambda number: 1
        self.tests, self.overfit = True, False
        self.trained: Batches | None = None  # the last loader of the training batches
        self.mean, self.std, self.loaded, self.checksums = mean, std, dict[str, Samples](), Checksums()

        if not isinstance(source, Splits):
            raise RequestError(
                f"data.source returns a {type(source).__name__}; it returns lamella.data.Splits", "data.source"
            )
        check_files(source.train, cache, skip_unreadable)
        source = without_unreadable(source) if skip_unreadable else source
        self.left_out, self.source_notes, self.groups = source.left_out, list(source.notes), source.train.groups
        self.cut = [name for name in ("val", "test") if getattr(source, name) is None]
        sizes = (val_size, test_size)
        self.folds = Folds.of(source, folds, fold, sizes, split_seed, self.classes, group_duplicates)
        splits = self.folds.splits(source) if self.folds else cut_splits(source, *sizes, split_seed)
        self.train, self.val, self.test = splits
        self.encoder = encoder or source.encoder
        if self.encoder is not None:
            if encoder is None:
                self.encoder.fit(self.train)
            self.train, self.val, self.test = map(self.encoder.encode, (self.train, self.val, self.test))
        self.shape: Shape = kind(self.train)[0] if shape is None else plain_shape(shape)
        check_batches(batch_size, drop_last, self.num_workers or 0, len(self.train))
        check_samples(self.splits, self.shape, self.input_type, num_classes, ignored, validates=val_size != 0)
        self.images = kind(self.train)[1] == torch.uint8
        if self.augment:
            self.augment.check(self.images, self.shape)
        pixels = None if isinstance(self.shape, dict) or not self.images else self.shape  # pixels have no names
        self.normalize = Normalize.of(mean, std, pixels) if pixels else None
        self.weights = class_weights(sampler, self.train.targets, num_classes * self.has_classes)

    @property
    def splits(self) -> dict[str, Samples]:
        """Return the samples by the name of the split."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def sizes(self) -> dict[str, int]:
        """Return the number of samples of each split."""
        return {name: len(samples) for name, samples in self.splits.items()}

    @property
    def validates(self) -> bool:
        """Return True if there is something to validate with."""
        return self.overfit or len(self.val) > 0

    @property
    def reads_lazily(self) -> bool:
        """Return True if inputs are read when they are served."""
        return not isinstance(self.train.inputs, Tensor)

    @property
    def found(self) -> dict[str, object]:
        """Return the keys of the config that the samples tell, with their values."""
        return {"shape": written_shape(self.shape)}

    @property
    def has_classes(self) -> bool:
        """Return True if the target of a sample is a class."""
        return not self.reconstructs and self.train.targets.dim() == 1 and not self.train.targets.is_floating_point()

    @property
    def has_masks(self) -> bool:
        """Return True if the target of an image is a class for each pixel."""
        targets = self.train.targets
        is_mask = self.images and not isinstance(self.shape, dict) and targets.shape[1:] == self.shape[1:]
        return is_mask and targets.dim() == 3 and not self.reconstructs and not targets.is_floating_point()

    @property
    def targets(self) -> list[Tensor]:
        """Return the targets (N, …) of each split, or zeros (1, …) of the shape of an input that is the target."""
        if self.reconstructs and not isinstance(self.shape, dict):
            return [torch.zeros(1, *self.shape)]
        return [samples.targets for samples in self.splits.values()]

    def check_keys(self) -> None:
        """Raise RequestError for keys that would do nothing or not what they say.

        The config of a new run is checked. A recorded run was trained with what these keys did.
        """
        for key, value in (("data.mean", self.mean), ("data.std", self.std)):
            if value is not None and not self.images:
                raise RequestError(
                    f"{key} is {value}; it normalises pixels, and these samples are none and are served as they are; "
                    f"set {key}=null",
                    key,
                )
        if self.augment:
            if self.has_masks:
                self.augment.check_masks(self.ignored)
            elif not self.reconstructs:
                self.augment.check_targets(self.train.targets.shape[1:])
            self.augment.check_mixing(self.has_classes, self.batch_size)

    def check_headers(self) -> None:
        """Raise UnreadableImages that names each image file that is no image, as far as headers tell."""
        check_headers(self.splits.values())

    def summary(self) -> str:
        """Return in one line how many samples there are, and what was left out."""
        noun = "image" if self.images and len(self.shape) == 3 else "sample"
        return count_text(self.splits, self.cut, noun, self.num_classes * self.has_classes, self.left_out)

    def notes(self) -> list[str]:
        """Return what a user should know of the data, each as one sentence."""
        notes = [*self.source_notes, *(class_notes(self.splits, self.classes) if self.has_classes else [])]
        notes += self.folds.notes(self.train, self.val) if self.folds else []
        notes += leak_notes(self.splits, self.checksums.of(self.splits), ["test"] if self.folds else ["val", "test"])
        if self.workers and self.num_workers is None:
            kept = "data.cache is memmap" if self.cache else "data.in_memory is true"
            notes.append(f"data.num_workers is {self.workers}, but {kept}, so that no worker reads anything")
        return notes

    def setup(self, stage: str) -> None:
        """Decode the image files that a stage of the Trainer reads or, if they stay files, check their headers.

        stage: "fit", "validate" or "test". Raises UnreadableImages that names each file that is no image.
        """

        def load(name: str) -> None:
            if name not in self.loaded:
                self.loaded[name] = readable(self.splits[name], self.in_memory, self.cache)
            setattr(self, name, self.loaded[name])

        names = ("train", "val") if stage == "fit" and not self.tests else STAGES.get(stage, ())
        together([partial(load, name) for name in names])

    def with_seed(self, seed: int) -> "Data":
        """Return a copy for another run that shares the samples, and orders and augments them by its own seed."""
        other = copy.copy(self)
        other.seed, other.trained = seed, None
        return other

    def state_dict(self) -> dict[str, object]:
        """Return checksums of the samples, which a checkpoint contains. A run goes on only if they are the same."""
        return {**self.checksums.fingerprint(self.splits, self.encoder)}

    def differences(self, saved: Fingerprint | None, stage: str) -> list[str]:
        """Return what is not as it was when a checkpoint was saved, as `fingerprint.differences` does.

        stage: the images that this stage of the Trainer reads are compared.
        """
        self.setup(stage)
        return differences(saved, self.state_dict())

    def check_world(self, world: int) -> None:
        """Raise RequestError if `world` devices cannot share a batch equally, or one of them would have no samples."""
        check_world(self.batch_size, self.sizes, world)

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
            reconstructs=self.reconstructs,
            **options,
        )

    def train_dataloader(self) -> Batches:
        """Return the loader of the training batches."""
        trainer = self.trainer
        # Runs of earlier versions may have Lightning's overfit_batches.
        is_same = self.overfit or (trainer is not None and bool(trainer.overfit_batches))  # type: ignore[attr-defined]
        self.trained = self.batches(
            self.train,
            augment=self.augment,
            ignored=self.ignored if self.has_masks else None,
            shuffle=True,
            drop_last=self.drop_last,
            seed=self.seed,
            epoch=lambda: trainer.current_epoch if trainer and not is_same else 0,
            start=lambda: batch_index(trainer) + 1 if trainer else 0,  # a resumed epoch goes on with its next batch
            chunk=self.chunk,
            weights=self.weights,
        )
        return self.trained

    def val_dataloader(self) -> Batches:
        """Return the loader of the validation batches."""
        if self.overfit:
            return (self.trained or self.train_dataloader()).first_epoch()
        return self.batches(self.val, batch_size=EVALUATION_FACTOR * self.batch_size)

    def test_dataloader(self) -> Batches:
        """Return the loader of the test batches."""
        return self.batches(self.test, batch_size=EVALUATION_FACTOR * self.batch_size)

    def pixels(self, inputs: Tensor) -> Tensor:
        """Return served images (B, channels, height, width) on the scale from 0 to 1, to be shown."""
        if self.normalize is not None:
            return self.normalize.pixels(inputs)
        low, high = inputs.aminmax()
        return (inputs - low) / (high - low).clamp(min=1e-12)

    def transfer_batch_to_device(self, batch: object, device: torch.device, dataloader_idx: int) -> object:
        """Return the batch unchanged, because it was made on the device.

        Lightning's own method looks through each batch for tensors to move, which takes a tenth of a step.
        """
        return batch
