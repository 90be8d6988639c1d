"""When a run is saved, and what it takes to go on exactly from there."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn

from lamella.atomic_files import replace_link, sync_directory
from lamella.interrupts import Interrupted, Interrupts
from lamella.runs.checkpoints import BEST, LAST, NEW, PREVIOUS
from lamella.runs.files import sync_growing_files


@dataclass(frozen=True)
class CheckpointInterval:
    """How often a run is saved within an epoch: after so many optimizer steps, or so many seconds."""

    steps: float = math.inf
    seconds: float = math.inf


class Checkpoints(pl.Callback):
    """`last.ckpt` after each epoch, and within it as `every` says; the one before is `previous.ckpt`; `best.ckpt`.

    run: its directory. monitor: a metric's name. mode: "min" or "max". Of equal epochs the first is the best; one
    without the metric, because it was not validated, is not compared, and as long as there is no other the last epoch
    is the best.

    It is saved between batches alone, when all of the batch before is over, validation and schedulers included, and
    the optimizer has taken its step; for an epoch's last batch, when the epoch's metrics are written too. What a run
    adds to files is flushed first, and the sizes are kept, so that what comes after a checkpoint can be cut off.
    Raises Interrupted where a signal was received, once all is saved.

    It has to be the first of the callbacks, so that what the others do for a batch is either not begun or over.
    """

    def __init__(self, run: Path, monitor: str, mode: str, every: CheckpointInterval, interrupts: Interrupts) -> None:
        directory = run / "checkpoints"
        self.run, self.last, self.previous, self.best = run, directory / LAST, directory / PREVIOUS, directory / BEST
        self.new = directory / NEW
        self.started = False
        self.monitor, self.sign = monitor, 1.0 if mode == "max" else -1.0
        self.every, self.interrupts = every, interrupts
        self.best_epoch, self.metrics = 0, dict[str, float]()
        self.better = False
        self.saved_step, self.saved_time = 0, 0.0
        self.state: dict[str, Any] = {}
        self.stepped: int | None = None

    def due(self, step: int) -> float:
        """How many optimizer steps after `step` it is saved again, for the number of steps."""
        left = self.saved_step + self.every.steps - step
        return left if left > 0 else self.every.steps

    def compare(self, metrics: Mapping[str, float]) -> None:
        """Take note of the metrics of an epoch that is over."""
        kept = {name: value for name, value in metrics.items() if name.startswith(("train/", "val/"))}
        score, best = (self.sign * one.get(self.monitor, -self.sign * math.inf) for one in (kept, self.metrics))
        if score > best or best == -math.inf:
            self.better, self.best_epoch, self.metrics = True, int(metrics["epoch"]), kept

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.interrupts.listen()
        self.started = True
        self.saved_step, self.saved_time = trainer.global_step, time.monotonic()
        if not self.state:
            return
        # An epoch without validation has the values of the last one that was validated.
        trainer.callback_metrics.update(
            {name: torch.tensor(value, dtype=torch.float64) for name, value in self.state["callback_metrics"].items()}
        )
        if not self.state["batches"]:
            # Where max_steps limits the run, Lightning takes an epoch that is over for one that was left in the middle.
            trainer.fit_loop.epoch_loop.restarting = False

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._epoch_over(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._epoch_over(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.stepped is not None:
            # By this number loggers go; where a validation is over already, Lightning has just counted one too many.
            trainer.fit_loop.epoch_loop._batches_that_stepped, self.stepped = self.stepped, None
            # Or it would leave out the plateau scheduler's step at the end of this epoch.
            trainer.fit_loop._restarting = False
            if batch_idx:
                # A callback may have changed it when the epoch began.
                trainer.accumulate_grad_batches = self.state["accumulate_grad_batches"]
        if batch_idx == 0 or batch_idx % trainer.accumulate_grad_batches:
            return
        steps = trainer.global_step - self.saved_step
        due = steps >= self.every.steps or time.monotonic() - self.saved_time >= self.every.seconds
        signal, due = self._agreed(trainer, due)
        if signal or due:
            if steps:
                self._save(trainer, batch_idx)
            self._leave(trainer, signal)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.interrupts.listen()

    def on_test_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._leave(trainer, self._agreed(trainer)[0])

    def _epoch_over(self, trainer: pl.Trainer) -> None:
        if trainer.global_step > self.saved_step:
            self._save(trainer, 0)
        self._leave(trainer, self._agreed(trainer)[0])

    def _agreed(self, trainer: pl.Trainer, due: bool = False) -> tuple[int, bool]:
        """The signal and whether it is time to save, on any of the processes, so that all do the same."""
        if trainer.world_size == 1:
            return self.interrupts.received, due
        both = torch.tensor([self.interrupts.received, int(due)], device=trainer.strategy.root_device)
        signal, due = trainer.strategy.reduce(both, reduce_op="max").tolist()
        return signal, bool(due)

    def _leave(self, trainer: pl.Trainer, signal: int) -> None:
        if signal:
            raise Interrupted(signal, trainer.global_step)

    def _save(self, trainer: pl.Trainer, batches: int) -> None:
        for logger in trainer.loggers:
            logger.save()
        self.state = {
            "best_epoch": self.best_epoch,
            "metrics": self.metrics,
            "epochs": trainer.current_epoch,
            "batches": batches,
            # Early stopping holds for the number of epochs that was asked for.
            "stopped": trainer.max_epochs if trainer.should_stop else None,
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
            "callback_metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
            "files": sync_growing_files(self.run) if trainer.is_global_zero else {},
        }
        trainer.save_checkpoint(self.new)
        if trainer.is_global_zero:
            # The best one first: last.ckpt may not speak of a best.ckpt that is not there yet.
            if self.better:
                replace_link(self.new, self.best)
            if self.last.exists():
                replace_link(self.last, self.previous)
            self.new.replace(self.last)
            sync_directory(self.last.parent)
        self.better = False
        self.saved_step, self.saved_time = trainer.global_step, time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put Lightning's loops between two batches or two epochs; they are saved with one foot in the next."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        self.state = checkpoint["callbacks"][self.state_key]
        self.best_epoch, self.metrics = self.state["best_epoch"], self.state["metrics"]
        trainer.should_stop = self.state["stopped"] is not None and self.state["stopped"] == trainer.max_epochs
        loops, epochs, batches = checkpoint["loops"]["fit_loop"], self.state["epochs"], self.state["batches"]
        self.stepped = loops["epoch_loop.state_dict"]["_batches_that_stepped"]
        progress = loops["epoch_loop.batch_progress"]
        for counts, done in ((progress["current"], batches), (progress["total"], progress["total"]["completed"])):
            counts |= dict.fromkeys(counts, done)
        progress["is_last_batch"] = False
        if not batches:
            for counts in (loops["epoch_progress"]["current"], loops["epoch_progress"]["total"]):
                counts |= dict.fromkeys(counts, epochs)
