"""Show how far a sweep is: a line for each job that ends, and on a terminal a bar for each job and one for all.

In the cell of a notebook, the bars and the line of the last job that has ended are a text that changes.
"""

import time
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from lamella.console import cell_text, print
from lamella.runs.files import METRICS
from lamella.tables import format_duration, printable
from lamella.training.progress import as_text

REFRESH = 0.5  # seconds between two readings of how many epochs a job has finished
LABEL_WIDTH = 60  # characters of a job's label beside its bar


class SweepProgress:
    """A context manager that shows the progress of the jobs that are added to it.

    jobs: the number of jobs of the sweep. finished: how many of them had finished before.
    """

    def __init__(self, jobs: int, finished: int = 0) -> None:
        self.jobs, self.ended, self.ended_before = jobs, finished, finished
        self.started = time.monotonic()
        console = Console()
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[at]}"))
        self.bars = Progress(*columns, TimeRemainingColumn(), console=console, transient=True, refresh_per_second=4)
        self.on_terminal, self.cell, self.line = console.is_terminal, cell_text(), ""
        self.has_bars = self.on_terminal or self.cell is not None
        # By the directory of a running job:
        self.epochs: dict[Path, int | None] = {}
        self.tasks: dict[Path | None, TaskID] = {}  # the bars; None for the bar of all jobs
        self.shares: dict[Path, float] = {}  # the part of its epochs that the job has finished
        self.last_reading: dict[Path, float] = {}

    def __enter__(self) -> "SweepProgress":
        if self.on_terminal:
            self.bars.start()
        if self.has_bars:
            self.tasks[None] = self.bars.add_task("all jobs", total=self.jobs, completed=self.ended, at="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.on_terminal:
            self.bars.stop()

    def add_job(self, path: Path, label: str, epochs: int | None) -> None:
        """Show a bar for the job that has started in the directory `path`."""
        self.epochs[path] = epochs
        if self.has_bars:
            text = printable(label)[:LABEL_WIDTH]
            self.tasks[path] = self.bars.add_task(text, total=epochs, at="", start=bool(epochs))

    def update_job(self, path: Path) -> None:
        """Move the bar of a job to the number of epochs in its metrics.jsonl, at most once in REFRESH seconds."""
        now = time.monotonic()
        if not self.has_bars or now < self.last_reading.get(path, 0.0) + REFRESH:
            return
        self.last_reading[path] = now
        try:
            epochs = (path / METRICS).read_bytes().count(b"\n")
        except OSError:
            epochs = 0
        total = self.epochs[path]
        self.shares[path] = epochs / total if total else 0.0
        self.bars.update(self.tasks[path], completed=epochs, at=f"epoch {epochs}/{total or '?'}")
        self.bars.update(self.tasks[None], completed=self._jobs_completed(), at=f"{self.ended}/{self.jobs}")
        self._show_in_cell()

    def remove_job(self, path: Path) -> None:
        """Remove the bar of a job that has ended."""
        self.shares.pop(path, None)
        if self.has_bars:
            self.bars.remove_task(self.tasks.pop(path))
            self.bars.update(self.tasks[None], completed=self._jobs_completed(), at=f"{self.ended}/{self.jobs}")
            self._show_in_cell()

    def print_result(self, label: str, result: str, more: bool = True) -> None:
        """Print the line of a job that has ended; with `more`, also an estimate of the time that the others take."""
        self.ended += 1
        width, left = len(str(self.jobs)), self.jobs - self.ended
        seconds = (time.monotonic() - self.started) / (self.ended - self.ended_before) * left
        rest = f"  {format_duration(seconds)} left" if more and left > 0 else ""
        self.line = f"[{self.ended:>{width}}/{self.jobs}] {label}  {result}{rest}"
        if self.cell:
            self._show_in_cell()
        else:
            print(self.line, flush=True)

    def _show_in_cell(self) -> None:
        """Show the bars and the line of the last job that has ended, in a notebook."""
        if self.cell:
            self.cell.show(f"{as_text(self.bars.get_renderable())}\n{self.line}".rstrip())

    def _jobs_completed(self) -> float:
        """Return the number of jobs that have ended, plus the finished parts of those that are running."""
        return self.ended + sum(self.shares.values())
