"""Show the progress of a run: as a bar on a terminal, or as a text that changes in the cell of a notebook."""

import io
import math
import sys
import time
from collections.abc import Mapping
from typing import TextIO

import pytorch_lightning as pl
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lamella.console import CellText, cell_text, print
from lamella.lightning_internals import batch_index

REFRESH = 0.25  # seconds between two updates; reading the clock after each batch costs nothing measurable
CELL_WIDTH = 100  # characters in a line of a cell's output


class EpochBar(pl.Callback):
    """A callback that shows a bar for each epoch longer than half a second, if standard error is a terminal.

    The loss in it is that of the last batch.
    """

    def __init__(self) -> None:
        self.console = Console(file=sys.__stderr__)
        self.bar: Progress | None = None
        self.due = 0.0

    def print_epoch(self, line: str, log: TextIO) -> None:
        """Print the line of an epoch that has ended. log: not used, because everything that is printed goes into it."""
        print(line)

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
        completed = batch_index(trainer) + 1
        self.bar.update(self.bar.task_ids[0], completed=completed, loss=_loss(trainer, outputs), refresh=True)

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


class CellBar(pl.Callback):
    """A callback that shows a bar for the whole run and the line of the last epoch in the cell of a notebook.

    Both take the place of those before, so that a run of any length takes two lines.
    """

    def __init__(self, cell: CellText) -> None:
        self.cell, self.line, self.due = cell, "", 0.0
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[loss]}"))
        self.bar = Progress(*columns, TimeRemainingColumn(), auto_refresh=False)
        self.task = self.bar.add_task("", total=None, loss="")

    def print_epoch(self, line: str, log: TextIO) -> None:
        """Show the line of an epoch that has ended, and write it into `log`."""
        print(line, file=log)
        self.line = line
        self._show()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, *_: object
    ) -> None:
        """Move the bar."""
        now = time.monotonic()
        if now >= self.due:
            self.due = now + REFRESH
            part = (batch_index(trainer) + 1) / trainer.num_training_batches
            self._move(trainer, trainer.current_epoch + part, _loss(trainer, outputs))
            self._show()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._move(trainer, trainer.current_epoch + 1)

    def _move(self, trainer: pl.Trainer, epochs: float, loss: str = "") -> None:
        """Move the bar to so many epochs. The number of all epochs is None or -1 where it is not known."""
        total = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else None
        text = f"epoch {math.ceil(epochs)}/{total or '?'}"
        self.bar.update(self.task, total=total, completed=epochs, description=text, loss=loss)

    def _show(self) -> None:
        self.cell.show(f"{as_text(self.bar.get_renderable())}\n{self.line}".rstrip())


def progress_bar() -> EpochBar | CellBar:
    """Return the callback that shows the progress of a run: another one in a notebook than on a terminal."""
    cell = cell_text()
    return CellBar(cell) if cell else EpochBar()


def as_text(renderable: RenderableType) -> str:
    """Return what rich draws as a text without colours."""
    file = io.StringIO()
    Console(file=file, width=CELL_WIDTH, force_jupyter=False, color_system=None).print(renderable)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def _loss(trainer: pl.Trainer, outputs: object) -> str:
    """Return the loss of a batch as a text, "" where the step returns none, as with manual optimization."""
    if not (isinstance(outputs, Mapping) and "loss" in outputs):
        return ""
    # Reading it waits for the device, which costs nothing measurable at this rate. Lightning has divided it.
    return f"loss {float(outputs['loss']) * trainer.accumulate_grad_batches:.4f}"
