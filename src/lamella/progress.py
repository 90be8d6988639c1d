"""What is seen while a run trains: a bar within the epoch on a terminal, a line for each epoch everywhere."""

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

REFRESH = 0.25  # seconds; a look at the clock in between costs nothing measurable


class Bar(pl.Callback):
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


class EpochLog(Logger):
    """Hands each epoch's metrics, with the number of epochs that are over as "epoch", to a function."""

    name, version = "epochs", ""

    def __init__(self, on_epoch: Callable[[dict[str, float]], None]) -> None:
        super().__init__()
        self.on_epoch = on_epoch

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if "train/loss" in metrics:
            self.on_epoch({"epoch": int(step or 0), **metrics})

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """There are none: the run directory holds the config."""


class Board(TensorBoardLogger):
    """Lightning's TensorBoard logger, writing one events file into the run directory and nothing beside it."""

    def __init__(self, directory: str, charts: Mapping[str, list[str]]) -> None:
        super().__init__(directory, name="", version="", default_hp_metric=False)
        self.charts = charts

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if step == 1 and "train/loss" in metrics:  # once, also where the run is resumed later
            layout = {"epoch": {title: ["Multiline", tags] for title, tags in self.charts.items()}}
            self.experiment.add_custom_scalars(layout)
        super().log_metrics(dict(metrics), step)

    @rank_zero_only
    def log_hyperparams(self, params: Any, metrics: Any = None, step: int | None = None) -> None:
        """Nothing but what is called with metrics, at the end: written without them, a run would show -1."""
        if metrics:
            super().log_hyperparams(params, metrics, step)

    @rank_zero_only
    def save(self) -> None:
        self.experiment.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        # Not closed yet: the test that follows the training would open a second file.
        self.experiment.flush()

    def close(self) -> None:
        """End the thread that writes; Lightning would do so after the fit, before the test."""
        if self._experiment is not None:
            self._experiment.close()
