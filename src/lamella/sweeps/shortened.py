"""Cut a run short, and measure what the whole run would take."""

import json
import math
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Timer

from lamella.atomic_files import write_atomically
from lamella.config.values import Config
from lamella.lightning_internals import batch_index
from lamella.runs.files import LAST
from lamella.training.checkpointing import Checkpoints

FILE = "shortened.json"  # in the directory of a run that was cut short
PART = 1.0  # seconds that are trained in an epoch, and evaluated in a validation or a test
EPOCHS = 2  # that are trained: the first one includes what is done once, and the second one is like the others


class Whole(NamedTuple):
    """What the whole run takes, as far as a run that was cut short can tell.

    begun: the monotonic time at which the training began. further: the seconds that the whole run takes longer than
    this one, infinite if nothing limits it. disk, memory, gpu_memory: the bytes in the directory at the end of the
    whole run, and the peaks of the memory that the processes of the run take, and of that on the GPU.
    """

    begun: float
    further: float
    disk: float
    memory: float
    gpu_memory: float


def shortened_config(config: Config) -> Config:
    """Return the config of a run that is cut short: with the callback Shortened, and without a least length."""
    trainer = {name: value for name, value in config["trainer"].items() if name not in ("min_epochs", "min_steps")}
    callback = {"_target_": f"{__name__}.{Shortened.__name__}"}
    return {**config, "trainer": {**trainer, "callbacks": [*(trainer.get("callbacks") or []), callback]}}


def read_whole(directory: Path) -> Whole:
    """Return what the run in `directory`, which has ended, has measured. Raises OSError where it has not got so far."""
    return Whole(**json.loads((directory / FILE).read_text()))


class Shortened(pl.Callback):
    """A callback that ends the run after parts of its first epochs, and writes into FILE what the whole run takes.

    Of each of the first EPOCHS epochs, of each validation and of the test, at least PART seconds are computed.
    """

    def __init__(self) -> None:
        self.begun, self.further, self.disk = 0.0, 0.0, 0.0
        self.begin, self.end = 0.0, 0.0  # of what is timed now, and of the last training batch
        self.trained, self.epochs, self.pace, self.rest = 0, 0, 0.0, 0.0
        self.validation, self.test = _Evaluation(), _Evaluation()
        self.sizes = list[int]()  # bytes in the directory after each epoch, without the checkpoints

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let each of the few epochs be validated."""
        self.begun, self.every = time.monotonic(), trainer.check_val_every_n_epoch
        trainer.check_val_every_n_epoch = self.every and 1

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end_epoch(trainer)
        self.begin = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        """End the epoch, after a validation, if enough of it was trained."""
        number = batch_index(trainer) + 1
        if number < trainer.num_training_batches and time.monotonic() - self.begin < PART:
            return
        self.end = _now(trainer)
        self.pace, self.validation.seconds = (self.end - self.begin) / number, 0.0
        self.trained += number
        trainer.should_stop = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch + 1 >= EPOCHS

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end_epoch(trainer)
        batches, interval = _whole_length(trainer), trainer.val_check_batch or math.inf
        if math.isinf(batches):
            self.further = math.inf
            return
        epochs = batches / trainer.num_training_batches
        each = max(1, trainer.num_training_batches // interval) if math.isfinite(interval) else 1
        validations = epochs // self.every * each if self.every else batches // interval
        self.further = (batches - self.trained) * self.pace + (math.ceil(epochs) - self.epochs) * self.rest
        self.further += self.validation.further(validations * sum(trainer.num_val_batches))
        for timer in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(timer, Timer) and (left := timer.time_remaining()) is not None:
                self.further = min(self.further, max(0.0, left))
        self.disk = self._disk(trainer, epochs)

    def _end_epoch(self, trainer: pl.Trainer) -> None:
        """Measure what the end of an epoch takes beside the batches of its validation, as its pictures and checkpoint.

        `Checkpoints`, the first callback, has saved the run.
        """
        if self.end:
            self.epochs += 1
            self.rest = _now(trainer) - self.end - self.validation.seconds
            files = Path(trainer.default_root_dir).iterdir()
            self.sizes.append(sum(file.stat().st_size for file in files if file.is_file()))

    def _disk(self, trainer: pl.Trainer, epochs: float) -> float:
        """Return the bytes in the directory after so many epochs, with as many different checkpoints as there may be.

        These are last.ckpt, previous.ckpt, and those of the best epoch or of the `keep_top` best ones.
        """
        growth = self.sizes[-1] - self.sizes[0] if len(self.sizes) > 1 else 0
        top = next((one.keep_top for one in trainer.callbacks if isinstance(one, Checkpoints)), 0)  # type: ignore[attr-defined]
        last = Path(trainer.default_root_dir) / "checkpoints" / LAST
        kept = min(math.ceil(epochs), 2 + max(1, top))
        return self.sizes[-1] + (epochs - self.epochs) * growth + kept * last.stat().st_size

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.validation.start(_now(trainer))

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        self.validation.count(_now(trainer), sum(trainer.num_val_batches))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.begin += _now(trainer) - self.validation.begin  # for an epoch that goes on

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.test.start(_now(trainer))

    def on_test_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        self.test.count(_now(trainer), sum(trainer.num_test_batches))

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.further += self.test.further(sum(trainer.num_test_batches))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write what was measured, again after the test."""
        if not trainer.is_global_zero or not self.epochs:
            return
        unit = 1 if sys.platform == "darwin" else 1024
        memory = float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit * trainer.world_size)
        on_gpu = float(torch.cuda.max_memory_reserved()) if trainer.strategy.root_device.type == "cuda" else 0.0
        whole = Whole(self.begun, self.further, self.disk, memory, on_gpu)
        write_atomically(Path(trainer.default_root_dir) / FILE, json.dumps(whole._asdict()))


@dataclass
class _Evaluation:
    """Counts the batches of validations, or of a test, and cuts each one short.

    batches: how many were evaluated, and `before` the last one. seconds, pace: those that its batches took, and each.
    """

    begin: float = 0.0
    batches: int = 0
    before: int = 0
    pace: float = 0.0
    seconds: float = 0.0

    def start(self, now: float) -> None:
        self.begin, self.before = now, self.batches

    def count(self, now: float, whole: float) -> None:
        """Count a batch. Raises StopIteration, with which Lightning ends a validation or a test, after PART seconds."""
        self.batches += 1
        number, self.seconds = self.batches - self.before, now - self.begin
        self.pace = self.seconds / number
        if number < whole and self.seconds >= PART:
            raise StopIteration

    def further(self, batches: float) -> float:
        """Return the seconds that `batches` batches take longer than those that were evaluated."""
        return max(0.0, batches - self.batches) * self.pace if self.pace else 0.0


def _whole_length(trainer: pl.Trainer) -> float:
    """Return how many batches the whole run trains, infinite if nothing but the time limits it."""
    epochs = trainer.max_epochs
    batches = math.inf if epochs in (None, -1) else float(epochs or 0) * trainer.num_training_batches
    steps = trainer.max_steps * trainer.accumulate_grad_batches
    return min(batches, steps) if trainer.max_steps >= 0 else batches


def _now(trainer: pl.Trainer) -> float:
    """Return the monotonic time, on a GPU once its work is done."""
    if trainer.strategy.root_device.type != "cpu":
        torch.accelerator.synchronize()
    return time.monotonic()
