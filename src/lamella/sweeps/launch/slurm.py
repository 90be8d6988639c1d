"""Run jobs on a Slurm cluster, each as one Slurm job that Hydra's submitit launcher submits."""

import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from lamella.config.values import Config
from lamella.errors import first_line
from lamella.interrupts import Interrupts
from lamella.runs.reader import is_being_written
from lamella.sweeps.job import SIGNAL_STATUSES, Job, OnEnd
from lamella.sweeps.launch.hydra_api import hydra_launcher
from lamella.sweeps.launch.worker import output_file, run_as_program

SECONDS_TO_SAVE = 40  # the time in which a cancelled job saves its state; Slurm waits 30 seconds before it kills
KEPT_VARIABLES = ("SLURM_JOB_ID", "SLURM_CONF", "SLURM_RESTART_COUNT")


def launch_on_slurm(
    launcher: Config, directory: Path, jobs: Iterator[Job], at_a_time: int, on_end: OnEnd, interrupts: Interrupts
) -> None:
    """Run the jobs on Slurm, and return when all have ended or, after a signal, are cancelled.

    launcher: the values of `hydra.launcher`. directory: that of the sweep. at_a_time: how many jobs are in Slurm's
    queue or running at a time; the next one is taken as soon as one has ended.
    """
    os.environ["SUBMITIT_PREEMPT_SIGNAL"] = "USR1"  # a run that receives SIGUSR1 saves its state and is requeued
    running: dict[Path, _SlurmJob] = {}
    ended: queue.Queue[tuple[_SlurmJob, int]] = queue.Queue()
    submitted, more = 0, True
    while True:
        while more and not interrupts.received and len(running) < at_a_time and (job := next(jobs, None)):
            folder = directory / ".submitit" / job.path.name
            slurm_job = _SlurmJob(job, folder, _slurm_ids(folder))
            running[job.path] = slurm_job
            # A daemon thread, because this process may end before Slurm's jobs do.
            arguments = (slurm_job, launcher, directory, submitted, ended)
            threading.Thread(target=_submit_and_wait, args=arguments, daemon=True).start()
            submitted += 1
        if not running:
            return
        if interrupts.received:
            _cancel(list(running.values()))
            for slurm_job in running.values():
                on_end(slurm_job.job, 128 + interrupts.received)
            return
        with suppress(queue.Empty):
            slurm_job, status = ended.get(timeout=0.5)
            del running[slurm_job.job.path]
            more = on_end(slurm_job.job, status) and more


@dataclass(frozen=True)
class _SlurmJob:
    """A job that is submitted to Slurm.

    folder: where submitit writes what the job prints, in a folder for each id that Slurm gives to the job. old_ids: the
    ids of earlier tries.
    """

    job: Job
    folder: Path
    old_ids: frozenset[str]

    def new_ids(self) -> frozenset[str]:
        """Return the ids that Slurm has given to the job in this try."""
        return _slurm_ids(self.folder) - self.old_ids


def _slurm_ids(folder: Path) -> frozenset[str]:
    """Return the ids of the Slurm jobs whose output is in `folder`."""
    return frozenset(path.name for path in folder.glob("[0-9]*"))


def _submit_and_wait(
    slurm_job: _SlurmJob,
    launcher: Config,
    directory: Path,
    number: int,
    ended: "queue.Queue[tuple[_SlurmJob, int]]",
) -> None:
    """Submit a job, wait for its end, and put the job and its exit status into the queue `ended`."""
    status, path = 2, slurm_job.job.path
    node = {**launcher, "submitit_folder": f"{slurm_job.folder}/%j"}
    try:
        [returned] = hydra_launcher(node, directory, _run_in_slurm).launch([[str(path)]], number)
        status = int(returned.return_value)
    except Exception as error:
        with suppress(OSError):
            output_file(path).write_text(f"error: Slurm: {first_line(error)}\n", "utf-8")
    finally:
        ended.put((slurm_job, status))


def _cancel(slurm_jobs: list[_SlurmJob]) -> None:
    """Let Slurm cancel the jobs, and wait until they have saved their state."""
    deadline = time.monotonic() + SECONDS_TO_SAVE
    while time.monotonic() < deadline and not all(slurm_job.new_ids() for slurm_job in slurm_jobs):
        time.sleep(0.2)
    ids = [number for slurm_job in slurm_jobs for number in slurm_job.new_ids()]
    with suppress(OSError):
        subprocess.run(["scancel", *ids], check=False, capture_output=True)
    deadline = time.monotonic() + SECONDS_TO_SAVE
    while time.monotonic() < deadline and any(is_being_written(slurm_job.job.path) for slurm_job in slurm_jobs):
        time.sleep(0.5)


def _run_in_slurm(config: DictConfig) -> int:
    """Run a job on the machine that Slurm gave it, as a program that receives Slurm's signals."""
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith("SLURM_") or name in KEPT_VARIABLES
    }
    status = run_as_program(Path(config.path), environ)
    while status in (*SIGNAL_STATUSES, -signal.SIGTERM, -signal.SIGUSR1):
        signal.pause()  # Slurm ends this job and may start it again: a status returned now would count as the final one
    return status
