"""Cut a run short, and measure what the whole run would take."""

import json
import math
import resource
import sys
import time
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
PART = 1.0  # seconds after which an epoch, a validation and the test are cut
EPOCHS = 2  # that are trained at least: the first one includes what is done once, and the second one is like the others


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
    """Return the config of a run that is cut short: with the callback Shortened, no least length and no trackers."""
    trainer = {name: value for name, value in config["trainer"].items() if name not in ("min_epochs", "min_steps")}
    callback = {"_target_": f"{__name__}.{Shortened.__name__}"}
    return {
        **config,
        "tracking": {},
        "trainer": {**trainer, "callbacks": [*(trainer.get("callbacks") or []), callback]},
    }


def read_whole(directory: Path) -> Whole:
    """Return what the run in `directory`, which has ended, has measured. Raises OSError where it has not got so far."""
    return Whole(**json.loads((directory / FILE).read_text()))


class Shortened(pl.Callback):
    """A callback that ends the run after parts of its first epochs, and writes into FILE what the whole run takes.

    At least EPOCHS epochs are trained, and more if they are short. The training of an epoch, a validation, and the test
    are cut after PART seconds.
    """

    def __init__(self) -> None:
        self.begun, self.further, self.disk = 0.0, 0.0, 0.0
        self.training, self.validation, self.test = _Pace(), _Pace(), _Pace()
        self.begin, self.end, self.trained = 0.0, 0.0, (0, 0.0)  # of an epoch, and its batches and their seconds
        self.started, self.last, self.number = 0.0, 0.0, 0  # of a validation or a test: its start and its last batch
        self.ends = _Pace()  # of epochs, without the batches of their validations
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
        number, self.end = batch_index(trainer) + 1, time.monotonic()
        if number >= trainer.num_training_batches or _any_rank(trainer, self.end - self.begin >= PART):
            self.end = _now(trainer)
            trainer.should_stop = True
        self.trained = number, self.end - self.begin
        self.last = self.started = self.end  # there may be no validation

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        is_enough = _any_rank(trainer, time.monotonic() - self.begun > EPOCHS * PART)
        trainer.should_stop = is_enough and trainer.current_epoch + 1 >= EPOCHS

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end_epoch(trainer)
        batches, each = _whole_length(trainer), trainer.num_training_batches
        self.further = self._further(trainer, batches, each) if math.isfinite(batches) else math.inf
        for timer in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(timer, Timer) and (left := timer.time_remaining()) is not None:
                self.further = min(self.further, max(0.0, left))
        self.disk = self._disk(trainer, batches / each if math.isfinite(batches) else self.ends.count)

    def _further(self, trainer: pl.Trainer, batches: float, each: float) -> float:
        """Return the seconds that the training of so many batches takes longer, each epoch with `each` of them."""
        epochs, interval = batches / each, trainer.val_check_batch or math.inf
        in_epoch = max(1, each // interval) if math.isfinite(interval) else 1
        validations = epochs // self.every * in_epoch if self.every else batches // interval
        evaluated = self.validation.further(validations * sum(trainer.num_val_batches))
        return self.training.further(batches) + self.ends.further(math.ceil(epochs)) + evaluated

    def _disk(self, trainer: pl.Trainer, epochs: float) -> float:
        """Return the bytes in the directory after so many epochs, with as many different checkpoints as there may be.

        These are last.ckpt, previous.ckpt, and those of the best epoch or of the `keep_top` best ones.
        """
        growth = (self.sizes[-1] - self.sizes[0]) / max(1, len(self.sizes) - 1)
        top = next((one.keep_top for one in trainer.callbacks if isinstance(one, Checkpoints)), 0)  # type: ignore[attr-defined]
        last = Path(trainer.default_root_dir) / "checkpoints" / LAST
        kept = min(math.ceil(epochs), 2 + max(1, top))
        return self.sizes[-1] + (epochs - len(self.sizes)) * growth + kept * last.stat().st_size

    def _end_epoch(self, trainer: pl.Trainer) -> None:
        """Measure the end of an epoch beside the batches of its validation: its pictures and its checkpoint, say.

        `Checkpoints`, the first callback, has saved the run.
        """
        if self.end:
            self.training.add(*self.trained)
            self.ends.add(1, _now(trainer) - self.end - (self.last - self.started))
            files = Path(trainer.default_root_dir).iterdir()
            self.sizes.append(sum(file.stat().st_size for file in files if file.is_file()))

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started, self.number = _now(trainer), 0

    on_test_start = on_validation_start

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        self._count(trainer, sum(trainer.num_val_batches))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.validation.add(self.number, self.last - self.started)
        self.begin += time.monotonic() - self.started  # for an epoch that goes on

    def on_test_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        self._count(trainer, sum(trainer.num_test_batches))

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.test.add(self.number, self.last - self.started)
        self.further += self.test.further(sum(trainer.num_test_batches))

    def _count(self, trainer: pl.Trainer, whole: float) -> None:
        """Count a batch of a validation or a test. Raises StopIteration, with which Lightning ends a long one."""
        self.number, self.last = self.number + 1, _now(trainer)
        if self.number < whole and _any_rank(trainer, self.last - self.started >= PART):
            raise StopIteration

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write what was measured, again after the test."""
        if not trainer.is_global_zero or not self.sizes:
            return
        unit = 1 if sys.platform == "darwin" else 1024
        memory = float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit * trainer.world_size)
        on_gpu = float(torch.cuda.max_memory_reserved()) if trainer.strategy.root_device.type == "cuda" else 0.0
        whole = Whole(self.begun, self.further, self.disk, memory, on_gpu)
        write_atomically(Path(trainer.default_root_dir) / FILE, json.dumps(whole._asdict()))


class _Pace:
    """What batches take, or ends of epochs. The first part that was timed counts only if there is no other one.

    count: how many were timed.
    """

    def __init__(self) -> None:
        self.parts, self.count = list[tuple[int, float]](), 0

    def add(self, count: int, seconds: float) -> None:
        """Add a part that was timed: so many batches, and how long all of them took."""
        self.parts.append((count, seconds))
        self.count += count

    def further(self, whole: float) -> float:
        """Return the seconds that `whole` batches take longer than those that were timed."""
        later = self.parts[1:] or self.parts
        count, seconds = sum(count for count, _ in later), sum(seconds for _, seconds in later)
        return max(0.0, whole - self.count) * seconds / count if count else 0.0


def _whole_length(trainer: pl.Trainer) -> float:
    """Return how many batches the whole run trains, infinite if nothing but the time limits it."""
    epochs = trainer.max_epochs
    batches = math.inf if epochs in (None, -1) else float(epochs or 0) * trainer.num_training_batches
    steps = trainer.max_steps * trainer.accumulate_grad_batches
    return min(batches, steps) if trainer.max_steps >= 0 else batches


def _any_rank(trainer: pl.Trainer, is_over: bool) -> bool:
    """Return True on all ranks if a time is over on one of them, because all of them have to end at the same batch."""
    return trainer.strategy.reduce_boolean_decision(is_over, all=False)


def _now(trainer: pl.Trainer) -> float:
    """Return the monotonic time, on a GPU once its work is done."""
    if trainer.strategy.root_device.type != "cpu":
        torch.accelerator.synchronize()
    return time.monotonic()
