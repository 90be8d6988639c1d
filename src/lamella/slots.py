"""Runs of their own beside each other on this machine: processes, and the cores and GPUs that they get."""

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

import torch

from lamella import processes, trainers
from lamella.errors import RequestError
from lamella.interrupts import Interrupts
from lamella.meter import Meter

WAIT = 0.1  # seconds between two looks at the processes
NOTICE = "the jobs save what they have and end; once more to end at once\n"


def cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Job:
    """A run that is to be begun or to go on in `path`, as its config says. label: what a person calls it."""

    path: Path
    config: Mapping[str, Any]
    label: str

    @property
    def epochs(self) -> int | None:
        """How many it is to train."""
        epochs: int | None = self.config["trainer"].get("max_epochs")
        return epochs


@dataclass
class _Running:
    job: Job
    process: Any
    cores: int
    gpus: list[str]


class Slots:
    """As many processes at a time as there is room for.

    slots: how many; None: a GPU for each process that takes one, and cores for the threads of all others.
    """

    def __init__(self, slots: int | None = None) -> None:
        if slots is not None and (isinstance(slots, bool) or not isinstance(slots, int) or slots < 1):
            raise RequestError(
                f"hydra.launcher.slots is {slots!r}; it takes 1 or more, or null", "hydra.launcher.slots"
            )
        self.slots, self.cores = slots, cores()
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        present = named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]
        self.present = present if torch.cuda.is_available() else []
        # With more slots than GPUs, several share one.
        self.gpus = self.present * -(-(slots or 1) // max(1, len(self.present)))
        self.running: list[_Running] = []

    def at_a_time(self, jobs: int) -> int:
        """How many of so many jobs run beside each other, where each takes one core."""
        return min(jobs, self.slots or self.cores)

    def run(self, jobs: Iterator[Job], meter: Meter, over: Callable[[Job, int], bool], interrupts: Interrupts) -> None:
        """Run the jobs, taking the next one when there is room for it.

        over: called when one has ended, with its exit status; false: start no more.
        Where `interrupts` has received a signal, the jobs are told to end, and no other is started.
        """
        waiting: Job | None = None
        going, told = True, False
        while True:
            while going and not interrupts.received:
                if waiting is None:
                    if self.full():  # what comes next may depend on what is running
                        break
                    waiting = next(jobs, None)
                if waiting is None or not self._start(waiting, meter):
                    break
                waiting = None
            if interrupts.received and not told:
                told = True
                self.tell(interrupts.received)
            if not self.running:
                return
            connection.wait([one.process.sentinel for one in self.running], WAIT)
            for one in [one for one in self.running if not one.process.is_alive()]:
                self.running.remove(one)
                self.gpus += one.gpus
                one.process.join()
                going = over(one.job, one.process.exitcode) and going
                meter.end(one.job.label)
            for one in self.running:
                meter.at(one.job.label, one.job.path)

    def full(self) -> bool:
        """Whether there is room for no job, however small."""
        if self.slots is not None:
            return len(self.running) >= self.slots
        busy = sum(one.cores for one in self.running) >= self.cores
        return bool(self.running) and busy and not (self.present and self.gpus)

    def _start(self, job: Job, meter: Meter) -> bool:
        """Start a job, unless there is no room for it yet."""
        accelerator = job.config["device"]["accelerator"]
        cuda = accelerator == "cuda" or (accelerator == "auto" and bool(self.present))
        count = trainers.processes(job.config["trainer"], "cuda" if cuda else "cpu")
        gpus = count if cuda else 0
        threads = 0 if cuda else count * (job.config["device"]["threads"] or self.cores)
        free = self.cores - sum(one.cores for one in self.running)
        # A job that takes more than there is runs alone.
        if self.running and (gpus > len(self.gpus) or (self.slots is None and threads > free)):
            return False
        environ = dict(os.environ)
        environ.pop("SLURM_JOB_ID", None)  # a job does not put this one back into the queue
        given, self.gpus = self.gpus[:gpus], self.gpus[gpus:]
        if cuda:
            environ["CUDA_VISIBLE_DEVICES"] = ",".join(given)
        program = count > 1 or job.config["trainer"].get("strategy", "auto") != "auto"
        process = processes.start(job.path, environ, program)
        self.running.append(_Running(job, process, threads, given))
        meter.begin(job.label, job.epochs)
        return True

    def tell(self, number: int) -> None:
        """Tell all processes to end, for the signal of this number; a second time, to end at once."""
        # SIGUSR1 would make each of them ask Slurm for what this process asks for.
        for one in self.running:
            with suppress(OSError):
                os.kill(one.process.pid, signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)
