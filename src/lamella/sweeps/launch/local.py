"""Runs of their own beside each other on this machine: processes, and the cores and GPUs that they get."""

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any

import torch

from lamella.errors import RequestError
from lamella.interrupts import Interrupts
from lamella.sweeps.job import Job
from lamella.sweeps.launch.progress import SweepProgress
from lamella.sweeps.launch.worker import start_worker
from lamella.training.device import available_cores, needs_own_program, process_count, resolve_accelerator

WAIT = 0.1  # seconds between two looks at the processes
NOTICE = "the jobs save what they have and end; once more to end at once\n"


@dataclass
class _Running:
    jobs: Sequence[Job]
    process: Any
    cores: int
    gpus: list[str]
    told: bool = False


class LocalLauncher:
    """As many processes at a time as there is room for.

    slots: how many; None: as many as each have GPUs of their own, or cores for their threads.
    """

    def __init__(self, slots: int | None = None) -> None:
        if slots is not None and (isinstance(slots, bool) or not isinstance(slots, int) or slots < 1):
            raise RequestError(
                f"hydra.launcher.slots is {slots!r}; it takes 1 or more, or null", "hydra.launcher.slots"
            )
        self.slots, self.cores = slots, available_cores()
        named, count = os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count()
        self.gpus = (named.split(",") if named else [str(number) for number in range(count)])[:count]
        self.running: list[_Running] = []

    def at_a_time(self, jobs: int, config: Mapping[str, Any]) -> int:
        """How many of so many jobs with such a config run beside each other."""
        threads, gpus, _ = self._needs(config)
        room = len(self.gpus) // gpus if gpus else self.cores // threads
        return min(jobs, self.slots or max(1, room))

    def run(
        self,
        jobs: Iterator[Sequence[Job]],
        meter: SweepProgress,
        over: Callable[[Job, int], bool],
        interrupts: Interrupts,
    ) -> None:
        """Run the jobs, those that stand together in one process, taking the next ones when there is room for them.

        over: called when one has ended, with the exit status of its process; false: start no more.
        Where `interrupts` has received a signal, the jobs are told to end, and no other is started.
        """
        waiting: Sequence[Job] | None = None
        going = True
        while True:
            while going and not interrupts.received:
                if waiting is None:
                    if self.full():  # what comes next may depend on what is running
                        break
                    waiting = next(jobs, None)
                if waiting is None or not self._start(waiting, meter):
                    break
                waiting = None
            if interrupts.received:
                self.tell(interrupts.received)
            if not self.running:
                return
            connection.wait([one.process.sentinel for one in self.running], WAIT)
            for one in [one for one in self.running if not one.process.is_alive()]:
                self.running.remove(one)
                one.process.join()
                for job in one.jobs:
                    going = over(job, one.process.exitcode) and going
                    meter.end(job.path)
            for job in [job for one in self.running for job in one.jobs]:
                meter.at(job.path)

    def full(self) -> bool:
        """Whether there is room for no job, however small."""
        if self.slots is not None:
            return len(self.running) >= self.slots
        cores = sum(one.cores for one in self.running)
        return cores >= self.cores or (any(one.gpus for one in self.running) and not self._idle())

    def _needs(self, config: Mapping[str, Any]) -> tuple[int, int, int]:
        """The CPU cores, the GPUs and the processes that a job takes."""
        cuda = resolve_accelerator(config["device"]["accelerator"]) == "cuda"
        count = process_count(config["trainer"], "cuda" if cuda else "cpu")
        return (0, count, count) if cuda else (count * (config["device"]["threads"] or 1), 0, count)

    def _start(self, jobs: Sequence[Job], meter: SweepProgress) -> bool:
        """Start a process for jobs that need the same, unless there is no room for it yet."""
        config = jobs[0].config
        threads, gpus, count = self._needs(config)
        free = self.cores - sum(one.cores for one in self.running)
        # A job that takes more than there is runs alone.
        if self.running and self.slots is None and not (threads <= free and gpus <= len(self._idle())):
            return False
        environ = dict(os.environ)
        environ.pop("SLURM_JOB_ID", None)  # a job does not put this one back into the queue
        given: list[str] = []
        if gpus:  # with more slots than GPUs, several jobs share one
            used = Counter(gpu for one in self.running for gpu in one.gpus)
            given = sorted(self.gpus, key=lambda gpu: used[gpu])[:gpus]
            environ["CUDA_VISIBLE_DEVICES"] = ",".join(given)
        program = needs_own_program(config["trainer"], count)
        process = start_worker([job.path for job in jobs], environ, program)
        self.running.append(_Running(jobs, process, threads, given))
        for job in jobs:
            meter.begin(job.path, job.label, job.epochs)
        return True

    def _idle(self) -> list[str]:
        """The GPUs that no job has."""
        busy = {gpu for one in self.running for gpu in one.gpus}
        return [gpu for gpu in self.gpus if gpu not in busy]

    def tell(self, number: int, again: bool = False) -> None:
        """Tell all processes to end, for the signal of this number; `again`: those that were told, to end at once."""
        # SIGUSR1 would make each of them ask Slurm for what this process asks for.
        for one in [one for one in self.running if again or not one.told]:
            one.told = True
            with suppress(OSError):
                os.kill(one.process.pid, signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)
