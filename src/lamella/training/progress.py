"""What is seen while a run trains: a bar within the epoch on a terminal, a line for each epoch everywhere."""

import sys
import time
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

REFRESH = 0.25  # seconds; a look at the clock in between costs nothing measurable


class EpochBar(pl.Callback):
    """A bar on standard error for each epoch that is long enough to wait for; nothing where that is no terminal."""

    def __init__(self) -> None:
        self.console = Console(file=sys.__stderr__)
        self.bar: Progress | None = None
        self.due = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.shown = self.console.is_terminal and trainer.is_global_zero

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.due = time.monotonic() + 2 * REFRESH

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        if now < self.due or not self.shown:
            return
        self.due = now + REFRESH
        if self.bar is None:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Progress(
                *columns,
                console=self.console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self.bar.start()
            self.bar.add_task(f"epoch {trainer.current_epoch + 1}", total=trainer.num_training_batches)
        self.bar.update(self.bar.task_ids[0], completed=trainer.fit_loop.batch_idx + 1, refresh=True)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.stop()

    def stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
