"""Run jobs on this machine: each in a process of its own, as many at a time as the cores or GPUs allow."""

import os
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import NamedTuple

import torch

from lamella.config.values import Config
from lamella.errors import RequestError
from lamella.interrupts import Interrupts
from lamella.sweeps.job import Job, OnEnd
from lamella.sweeps.launch.forkserver import start_process
from lamella.sweeps.launch.progress import SweepProgress
from lamella.sweeps.launch.worker import run_worker, worker_environment
from lamella.training.device import available_cores, needs_own_program, process_count, resolve_accelerator

POLL = 0.1  # seconds between two checks of the processes
NOTICE = "the jobs save their state and end; press Ctrl-C again to end them at once\n"


class Resources(NamedTuple):
    """The CPU cores and GPUs that a job takes, and the number of processes that share its work."""

    cores: int
    gpus: int
    processes: int


@dataclass
class _Worker:
    """A process that is running, with the cores and GPUs that it was given."""

    jobs: Sequence[Job]
    process: BaseProcess
    cores: int
    gpus: list[str]
    told_to_end: bool = False

    def send_signal(self, number: int) -> None:
        self.told_to_end = True
        with suppress(OSError):
            if self.process.pid is not None:
                os.kill(self.process.pid, number)


class LocalLauncher:
    """Runs as many jobs at a time as there is room for.

    slots: the number of processes at a time. With None, the cores of the machine are shared among the jobs by their
    threads, and each job on GPUs gets GPUs of its own. Raises RequestError for other values.
    """

    def __init__(self, slots: object = None) -> None:
        if slots is not None and (isinstance(slots, bool) or not isinstance(slots, int) or slots < 1):
            raise RequestError(
                f"hydra.launcher.slots is {slots!r}; it takes 1 or more, or null", "hydra.launcher.slots"
            )
        self.slots, self.cores = slots, available_cores()
        visible, count = os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count()
        self.gpus = (visible.split(",") if visible else [str(number) for number in range(count)])[:count]
        self.workers: list[_Worker] = []

    def at_a_time(self, jobs: int, config: Config) -> int:
        """Return how many of `jobs` jobs with this config run at a time."""
        needed = _needed_resources(config)
        room = len(self.gpus) // needed.gpus if needed.gpus else self.cores // needed.cores
        return min(jobs, self.slots or max(1, room))

    def run(
        self, groups: Iterator[Sequence[Job]], progress: SweepProgress, on_end: OnEnd, interrupts: Interrupts
    ) -> None:
        """Run all jobs, and return when no process is running any more.

        groups: the jobs of each process. The next group is taken only when there is room for it, because a search
        chooses each job by the results so far. After a signal, the running jobs are told to end and no more start.
        """
        waiting: Sequence[Job] | None = None
        more = True
        while True:
            while more and not interrupts.received:
                if waiting is None and not self.is_full():
                    waiting = next(groups, None)
                if waiting is None or not self._start(waiting, progress):
                    break
                waiting = None
            if interrupts.received:
                self.send_signal(interrupts.received)
            if not self.workers:
                return
            connection.wait([worker.process.sentinel for worker in self.workers], POLL)
            for job, status in self._ended_jobs():
                more = on_end(job, status) and more
                progress.remove_job(job.path)
            for worker in self.workers:
                for job in worker.jobs:
                    progress.update_job(job.path)

    def is_full(self) -> bool:
        """Return True if there is no room for another job, however small: every slot, core or GPU is taken."""
        if self.slots is not None:
            return len(self.workers) >= self.slots
        gpus_are_used = any(worker.gpus for worker in self.workers)
        return self._free_cores() <= 0 or (gpus_are_used and not self._free_gpus())

    def send_signal(self, number: int, again: bool = False) -> None:
        """Tell the processes to end, because this process has received the signal `number`.

        again: tell also the processes that were told before, which then end at once.
        """
        for worker in self.workers:
            if again or not worker.told_to_end:
                # Never SIGUSR1: each job would ask Slurm to requeue the whole sweep, as this process does.
                worker.send_signal(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)

    def _start(self, jobs: Sequence[Job], progress: SweepProgress) -> bool:
        """Start a process for `jobs`, which need the same resources. Return False if there is no room for it yet."""
        trainer, needed = jobs[0].config["trainer"], _needed_resources(jobs[0].config)
        fits = needed.cores <= self._free_cores() and needed.gpus <= len(self._free_gpus())
        if self.workers and self.slots is None and not fits:  # a job that never fits runs when nothing else does
            return False
        environ = worker_environment(os.environ)
        environ.pop("SLURM_JOB_ID", None)  # so that the job does not requeue the Slurm job of the sweep
        gpus: list[str] = []
        if needed.gpus:  # where there are more slots than GPUs, several jobs share a GPU
            used = Counter(gpu for worker in self.workers for gpu in worker.gpus)
            gpus = sorted(self.gpus, key=lambda gpu: used[gpu])[: needed.gpus]
            environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        program = needs_own_program(trainer, needed.processes)
        arguments = ([job.path for job in jobs], environ, program, jobs[0].fused)
        process = start_process(run_worker, arguments)
        self.workers.append(_Worker(jobs, process, needed.cores, gpus))
        for job in jobs:
            progress.add_job(job.path, job.label, job.epochs)
        return True

    def _ended_jobs(self) -> Iterator[tuple[Job, int]]:
        """Yield the jobs whose process has ended, with the exit status of the process."""
        for worker in [worker for worker in self.workers if not worker.process.is_alive()]:
            self.workers.remove(worker)
            worker.process.join()
            status = worker.process.exitcode
            assert status is not None  # the process was joined
            for job in worker.jobs:
                yield job, status

    def _free_cores(self) -> int:
        return self.cores - sum(worker.cores for worker in self.workers)

    def _free_gpus(self) -> list[str]:
        used = {gpu for worker in self.workers for gpu in worker.gpus}
        return [gpu for gpu in self.gpus if gpu not in used]


def _needed_resources(config: Config) -> Resources:
    """Return what a job with this config takes of the machine."""
    on_gpus = resolve_accelerator(config["device"]["accelerator"]) == "cuda"
    processes = process_count(config["trainer"], "cuda" if on_gpus else "cpu")
    if on_gpus:
        return Resources(0, processes, processes)
    return Resources(processes * (config["device"]["threads"] or 1), 0, processes)
