"""The data of a project's own: datasets, streams, or any LightningDataModule."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities import move_data_to_device
from torch import Tensor

from lamella.data.checks import check_world, class_names
from lamella.data.chunk import Batch
from lamella.data.datamodule import Data
from lamella.data.datasets import Datasets, ItemBatches, on_device
from lamella.data.fingerprint import Fingerprint, data_environment, differences, first_fingerprint, target_checksum
from lamella.data.items import Reading, kind_of_batch
from lamella.data.loaded import LoadedBatches, loader_length
from lamella.data.samples import written_shape, written_type
from lamella.data.streams import Streams
from lamella.data.summary import WORDS, count_text, counted
from lamella.errors import RequestError, first_line, own_frames
from lamella.lightning_internals import batch_index

LOADERS = {"train": "train_dataloader", "val": "val_dataloader", "test": "test_dataloader"}
# The hooks of a datamodule through which a batch goes before a step.
HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


class OwnData(pl.LightningDataModule):
    """A datamodule that serves the batches of `source` as pairs of inputs and targets, on the device.

    source: what has the samples. num_classes, classes: the number of classes, None where targets are floats, and their
    names. shape, dtype: of one sample, as in `Data`; None to take those of the first samples. input, target, ignored:
    as in `Reading`. seed: of the order of the samples and of what is random in them.

    The first batch is made here, because the network is planned by it. The attributes are those of `Data`. Raises
    RequestError for samples and batches that are no inputs and targets.
    """

    images = reconstructs = has_masks = False
    reads_lazily = True
    augment = encoder = folds = groups = None
    left_out = ""
    source_notes: Sequence[str] = ()

    def __init__(
        self,
        source: Datasets | pl.LightningDataModule,
        num_classes: int | None = None,
        classes: Sequence[str] | None = None,
        shape: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
        dtype: str | Mapping[str, str] | None = None,
        input: str | Sequence[str] | None = None,
        target: str = "target",
        ignored: int = -100,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.source, self.num_classes, self.ignored, self.seed = source, num_classes or 0, ignored, seed
        self.classes = class_names(self.num_classes, classes)
        self.written = {"shape": shape, "dtype": dtype}
        self.read = Reading(input, target, num_classes, ignored)
        self.chunk: Callable[[int], int] = lambda number: 1
        self.tests, self.overfit = True, False
        self.unchanged = False  # whether the batches of a datamodule are served as it makes them
        self.position = 0, 0  # how many epochs, and batches of the next one, are over where a run goes on
        # None leaves that to the loaders of a datamodule.
        self.num_workers = source.num_workers if isinstance(source, Datasets) else None
        self.stages = set[str]()
        if isinstance(source, Datasets):
            self.has_val, self.cut = source.sizes["val"] > 0, source.cut
        else:
            self._ask("prepare_data")
            loader, val = self._loader("train"), self._loader("val")
            # The datamodule makes a new loader at each call, which may be slow.
            self.lengths = {"train": loader_length(loader)} | ({} if val is None else {"val": loader_length(val)})
            self.keeps_workers = getattr(loader, "persistent_workers", False)
            self.has_val, self.cut = val is not None, []
        batches = self._first_batches()
        first, self.first = batches["train"], first_fingerprint(batches)
        self.targets = [first[1]]
        self.batch_size = source.batch_size if isinstance(source, Datasets) else len(first[1])
        self.shape, self.input_type = kind_of_batch(first[0])

    @property
    def validates(self) -> bool:
        """Return True if there is something to validate with."""
        return self.overfit or self.has_val

    @property
    def title(self) -> str:
        """Return the name of what makes the batches."""
        made_by = self.source.splits["train"] if isinstance(self.source, Streams) else self.source
        return f"{type(made_by).__module__}.{type(made_by).__qualname__}"

    @property
    def sizes(self) -> dict[str, int]:
        """Return the number of samples of each split, or an empty mapping where they come from a datamodule."""
        return self.source.sizes if isinstance(self.source, Datasets) else {}

    @property
    def found(self) -> dict[str, object]:
        """Return the keys of the config that the samples tell, with their values."""
        return {"shape": written_shape(self.shape), "dtype": written_type(self.input_type)}

    @property
    def has_classes(self) -> bool:
        """Return True if the target of a sample is a class."""
        return self.targets[0].dim() == 1 and not self.targets[0].is_floating_point()

    def check_keys(self) -> None:
        """Raise RequestError for keys that say something else than the samples do."""
        for key, value in self.found.items():
            plain = self.written[key]
            if plain is not None and plain != value:
                raise RequestError(
                    f"data.{key} is {plain}, but the first samples are {value}; leave it null", f"data.{key}"
                )

    def check_headers(self) -> None:
        """Check no headers, because samples of a project's own are no image files that Lamella reads."""

    def check_world(self, world: int) -> None:
        """Raise RequestError if `world` devices cannot share the batches equally."""
        if isinstance(self.source, Datasets):
            check_world(self.batch_size, self.sizes, world)
        elif world > 1:
            raise RequestError(
                f"trainer.devices: each of {world} devices would train all batches of {self.title}; take one device, "
                "or data=dataset",
                "trainer.devices",
            )

    def summary(self) -> str:
        """Return in one line how many samples or batches there are."""
        if isinstance(self.source, Datasets):
            classes = self.num_classes * self.has_classes
            return count_text(self.source.splits, self.cut, "sample", classes, "")  # type: ignore[arg-type]
        parts = [
            f"an unknown number of {WORDS[name]} batches"
            if length is None
            else counted(length, f"{WORDS[name]} batch", f"{WORDS[name]} batches")
            for name, length in self.lengths.items()
        ]
        return f"{self.title}: {', '.join(parts)}"

    def notes(self) -> list[str]:
        """Return what a user should know of the data, each as one sentence."""
        if isinstance(self.source, Datasets):
            return []
        notes = [
            f"{self.title} makes the batches. Lamella seeds their random numbers by (seed, epoch, batch); a run that "
            "goes on within an epoch makes the batches before again, and leaves them out"
        ]
        if self.keeps_workers:
            notes.append(
                "persistent_workers keeps the random numbers of the workers from epoch to epoch, so that a resumed run "
                "may differ from one without interruption"
            )
        if type(self.source).state_dict is not pl.LightningDataModule.state_dict:
            notes.append(f"the state_dict of {self.title} is not saved")
        return notes

    def with_seed(self, seed: int) -> "OwnData":
        """Return a copy for another run that shares the samples, and orders them by its own seed."""
        other = copy.copy(self)
        other.seed = seed
        return other

    def state_dict(self) -> dict[str, object]:
        """Return the numbers of samples that are known, and checksums of the first batches, for a checkpoint."""
        sizes: Mapping[str, int | None] = self.sizes or {"train": self.lengths["train"]}
        targets = target_checksum(self.targets[0])
        return {"sizes": sizes, "targets": targets, "first": self.first, "environment": data_environment()}

    def differences(self, saved: Fingerprint | None, stage: str) -> list[str]:
        """Return what is not as it was when a checkpoint was saved, as `Data.differences` does."""
        now = self.state_dict()
        found = differences(saved, now)
        if found and first_fingerprint(self._first_batches()) != self.first:  # what is random says nothing
            found = differences(saved, {**now, "first": {}})
        return found

    def setup(self, stage: str) -> None:
        """Let the source set up what a stage of the Trainer reads."""
        if isinstance(self.source, pl.LightningDataModule) and stage not in self.stages:
            self.stages.add(stage)
            self._ask("setup", stage)

    def train_dataloader(self) -> ItemBatches | LoadedBatches:
        """Return the loader of the training batches."""
        trainer = self.trainer

        def epoch() -> int:
            if trainer is None or self.overfit or trainer.overfit_batches:  # type: ignore[attr-defined]
                return 0
            return max(self.position[0], trainer.current_epoch)

        def start() -> int:
            # Where the length is not known, Lightning asks for a batch before it knows where a run continues.
            done = batch_index(trainer) + 1 if trainer else 0
            return done if trainer and trainer.current_epoch > self.position[0] else max(self.position[1], done)

        batches = self._batches("train", epoch)
        batches.start = start
        return batches

    def val_dataloader(self) -> ItemBatches | LoadedBatches:
        """Return the loader of the validation batches, the same ones in each epoch."""
        return self._batches("train" if self.overfit else "val")

    def test_dataloader(self) -> ItemBatches | LoadedBatches:
        """Return the loader of the test batches. Raises RequestError where there are none."""
        if isinstance(self.source, pl.LightningDataModule) and self._loader("test") is None:
            raise RequestError(f"data: {self.title} has no test samples; write trainer.test=false", "trainer.test")
        return self._batches("test")

    def pixels(self, inputs: Tensor) -> Tensor:
        """Return served images (B, channels, height, width) on the scale from 0 to 1, to be shown."""
        low, high = inputs.aminmax()
        return (inputs - low) / (high - low).clamp(min=1e-12)

    def transfer_batch_to_device(self, batch: object, device: torch.device, dataloader_idx: int) -> object:
        """Return the batch unchanged, because it was served on the device."""
        return batch

    def _batches(self, name: str, epoch: Callable[[], int] = lambda: 0) -> ItemBatches | LoadedBatches:
        """Return the loader of a split."""
        trainer = self.trainer
        device = trainer.strategy.root_device if trainer else torch.device("cpu")
        if isinstance(self.source, Datasets):
            rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
            return self.source.batches(
                name, self.read, self.seed, rank=rank, world=world, device=device, num_workers=self.num_workers or 0,
                epoch=epoch,
            )  # fmt: skip
        loader = self._loader(name)
        loader = [] if loader is None else loader
        return LoadedBatches(loader, self._converter(device), self.title, self.seed, device, epoch)

    def _first_batches(self) -> dict[str, Batch]:
        """Return the first batch of each split or, of a datamodule, of the training. Raises RequestError."""
        if isinstance(self.source, Datasets):
            return {name: self.source.first(name, self.read) for name, size in self.source.sizes.items() if size}
        served = next(iter(self._batches("train")), None)
        if served is None:
            raise RequestError(f"data: {self.title} gives no training batch", "data")
        return {"train": served}

    def _converter(self, device: torch.device) -> Callable[[object], Batch]:
        """Return the function that makes inputs and targets, on the device, of a batch of the datamodule.

        A LightningModule of the project's own gets the batch itself, on the device.
        """
        source, kind = self.source, type(self.source)
        hooked = any(getattr(kind, name) is not getattr(pl.LightningDataModule, name) for name in HOOKS)

        def convert(given: object) -> Batch:
            if hooked and isinstance(source, pl.LightningDataModule):
                given = source.on_before_batch_transfer(given, 0)
                given = source.on_after_batch_transfer(source.transfer_batch_to_device(given, device, 0), 0)
            if self.unchanged:
                return move_data_to_device(given, device)  # type: ignore[no-any-return]
            return on_device(self.read(given, f"a batch of {self.title}"), device)

        return convert

    def _loader(self, name: str) -> Any:
        """Return the loader that the datamodule makes for a split, None where it has none. Raises RequestError."""
        method = LOADERS[name]
        if getattr(type(self.source), method) is getattr(pl.LightningDataModule, method):
            return None
        self.setup("test" if name == "test" else "fit")
        loader = self._ask(method)
        if loader is None or loader == []:
            return None
        if isinstance(loader, Mapping | list | tuple) or not hasattr(loader, "__iter__"):
            raise RequestError(
                f"data: {self.title}.{method} returns a {type(loader).__name__}; it takes one loader of batches", "data"
            )
        return loader

    def _ask(self, method: str, *arguments: str) -> Any:
        """Call a method of the datamodule. Raises RequestError for whatever it raises."""
        self.source.trainer = self.trainer  # type: ignore[union-attr]
        try:
            return getattr(self.source, method)(*arguments)
        except RequestError:
            raise
        except Exception as error:
            raise RequestError(
                f"data: {self.title}.{method} fails: {type(error).__name__}: {first_line(error)}{own_frames(error)}",
                "data",
            ) from error


RunData = Data | OwnData  # what a run may read
