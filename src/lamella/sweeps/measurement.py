"""Measure what jobs of a sweep take, by runs that are cut short and leave nothing behind."""

import math
import shutil
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from lamella.interrupts import Interrupts
from lamella.runs.sweep_directory import Member, Sweep, open_sweep
from lamella.sweeps.job import Job
from lamella.sweeps.launch.local import LocalLauncher
from lamella.sweeps.launch.progress import SweepProgress
from lamella.sweeps.launch.worker import failure_cause
from lamella.sweeps.shortened import Whole, read_whole, shortened_config

DIRECTORY = ".estimate"  # in that of the sweep
SLOW_START = 1.0  # seconds; after such a start, jobs are measured again, because the first ones may have filled a cache


@dataclass(frozen=True)
class Cost:
    """What a job takes: seconds, and bytes on the disk, in memory and on the GPU, 0 where that is not known."""

    seconds: float
    disk: float
    memory: float = 0.0
    gpu_memory: float = 0.0


def mean_cost(costs: Sequence[Cost]) -> Cost:
    """Return the mean seconds and bytes on the disk of several jobs, and their largest memory."""
    return Cost(
        statistics.fmean(cost.seconds for cost in costs),
        statistics.fmean(cost.disk for cost in costs),
        max(cost.memory for cost in costs),
        max(cost.gpu_memory for cost in costs),
    )


class Measurement:
    """Trains members of `sweep` for a short time, as a sweep of their own in a folder of its directory.

    The launcher starts them as it starts the jobs of the sweep. interrupts: the signals that end them. cause: why the
    last member that failed has failed.
    """

    def __init__(self, sweep: Sweep, launcher: LocalLauncher, interrupts: Interrupts) -> None:
        self.sweep, self.launcher, self.interrupts = sweep, launcher, interrupts
        self.path = sweep.path / DIRECTORY
        self.cause, self.is_first = "", True

    def cost(self, members: Sequence[Member]) -> Cost | None:
        """Return what each of `members` takes while all of them run, None where none can be trained."""
        started = time.monotonic()
        ends = self._ends(members)
        found = {path: whole for path in ends if (whole := self._whole(path))}
        begun = max((whole.begun for whole in found.values()), default=started)
        if self.is_first and begun - started > SLOW_START:
            self.is_first = False
            return self.cost(members)
        self.is_first = False
        shutil.rmtree(self.path, ignore_errors=True)
        costs = [
            Cost(ends[path] - started + whole.further, whole.disk, whole.memory, whole.gpu_memory)
            for path, whole in found.items()
        ]
        return mean_cost(costs) if costs else None

    def _ends(self, members: Sequence[Member]) -> dict[Path, float]:
        """Run the members, and return the monotonic time at which each of them has ended, by its directory."""
        shutil.rmtree(self.path, ignore_errors=True)
        short = [
            replace(member, name=str(number), config=shortened_config(member.config))
            for number, member in enumerate(members)
        ]
        ends = dict[Path, float]()

        def on_end(job: Job, status: int) -> bool:
            ends[job.path] = time.monotonic()
            if status:
                self.cause = failure_cause(job.path, status)
            return True

        with open_sweep(self.path, self.sweep.fields) as sweep:
            sweep.add(short)
            jobs = [Job(self.path / member.name, member.config, member.name) for member in short]
            self.launcher.run(iter([[job] for job in jobs]), SweepProgress(len(jobs)), on_end, self.interrupts)
        return ends

    def _whole(self, path: Path) -> Whole | None:
        """Return what a run has measured, None if it has failed, or nothing says how long it is."""
        with suppress(OSError):
            whole = read_whole(path)
            if math.isfinite(whole.further):
                return whole
            self.cause = "nothing tells how long they are; set trainer.max_epochs or +trainer.limit_train_batches"
        return None
