"""What is seen while a sweep runs: a bar for each job and one for all on a terminal, a line for each job everywhere."""

import time
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from lamella.runs.files import METRICS
from lamella.tables import format_duration, printable

REFRESH = 0.5  # seconds between two looks at how far a job is
WIDE = 60  # letters of a job's label beside its bar


class SweepProgress:
    """A `with` in which jobs begin and end.

    jobs: how many there are in all. done: how many of them were over before.
    """

    def __init__(self, jobs: int, done: int = 0) -> None:
        self.jobs, self.done, self.before = jobs, done, done
        self.started = time.monotonic()
        self.looked: dict[Path, float] = {}
        console = Console()
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[at]}"))
        self.bars = Progress(*columns, TimeRemainingColumn(), console=console, transient=True, refresh_per_second=4)
        self.shown = console.is_terminal
        self.epochs: dict[Path, int | None] = {}
        self.tasks: dict[Path | None, TaskID] = {}
        self.parts: dict[Path, float] = {}

    def __enter__(self) -> "SweepProgress":
        if self.shown:
            self.bars.start()
            self.tasks[None] = self.bars.add_task("all jobs", total=self.jobs, completed=self.done, at="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.shown:
            self.bars.stop()

    def begin(self, path: Path, label: str, epochs: int | None) -> None:
        """A job has begun in the directory `path`."""
        self.epochs[path] = epochs
        if self.shown:
            text = printable(label)[:WIDE]
            self.tasks[path] = self.bars.add_task(text, total=epochs, at="", start=bool(epochs))

    def at(self, path: Path) -> None:
        """Look how many epochs a job has behind it, if the last look was some time ago."""
        now = time.monotonic()
        if not self.shown or now < self.looked.get(path, 0.0) + REFRESH:
            return
        self.looked[path] = now
        try:
            epochs = (path / METRICS).read_bytes().count(b"\n")
        except OSError:
            epochs = 0
        total = self.epochs[path]
        self.parts[path] = epochs / total if total else 0.0
        self.bars.update(self.tasks[path], completed=epochs, at=f"epoch {epochs}/{total or '?'}")
        self.bars.update(
            self.tasks[None], completed=self.done + sum(self.parts.values()), at=f"{self.done}/{self.jobs}"
        )

    def end(self, path: Path) -> None:
        self.parts.pop(path, None)
        if self.shown:
            self.bars.remove_task(self.tasks.pop(path))
            self.bars.update(self.tasks[None], completed=self.done + sum(self.parts.values()))

    def say(self, label: str, result: str, going: bool = True) -> None:
        """One more job is over: a line; with the time that the others will take, where they are going on."""
        self.done += 1
        now = self.done - self.before
        left = (time.monotonic() - self.started) / now * (self.jobs - self.done)
        width = len(str(self.jobs))
        rest = f"  {format_duration(left)} left" if going and self.jobs > self.done else ""
        print(f"[{self.done:>{width}}/{self.jobs}] {printable(label)}  {printable(result)}{rest}", flush=True)
