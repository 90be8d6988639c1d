"""Show the progress within an epoch as a bar on a terminal."""

import math
import sys
import time
from collections.abc import Mapping

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lamella.lightning_internals import batch_index

REFRESH = 0.25  # seconds between two updates; reading the clock after each batch costs nothing measurable


class EpochBar(pl.Callback):
    """A callback that shows a bar for each epoch longer than half a second, if standard error is a terminal.

    The loss in it is that of the last batch.
    """

    def __init__(self) -> None:
        self.console = Console(file=sys.__stderr__)
        self.bar: Progress | None = None
        self.due = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.shown = self.console.is_terminal and trainer.is_global_zero

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.due = time.monotonic() + 2 * REFRESH

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Update the bar, and create it if the epoch has none."""
        now = time.monotonic()
        if now < self.due or not self.shown:
            return
        self.due = now + REFRESH
        if self.bar is None:
            self.bar = self._new_bar()
            self.bar.start()
            batches = trainer.num_training_batches
            total = None if math.isinf(batches) else batches  # of a stream, the length is not known
            self.bar.add_task(f"epoch {trainer.current_epoch + 1}", total=total, loss="")
        loss = ""
        if isinstance(outputs, Mapping) and "loss" in outputs:  # a step with manual optimization may return none
            # Reading it waits for the device, which costs nothing measurable at this rate. Lightning has divided it.
            loss = f"loss {float(outputs['loss']) * trainer.accumulate_grad_batches:.4f}"
        self.bar.update(self.bar.task_ids[0], completed=batch_index(trainer) + 1, loss=loss, refresh=True)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.stop()

    def _new_bar(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeRemainingColumn(),
            console=self.console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def stop(self) -> None:
        """Remove the bar of the epoch."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
