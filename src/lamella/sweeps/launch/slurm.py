"""Jobs that Slurm runs."""

import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lamella.errors import first_line
from lamella.interrupts import Interrupts
from lamella.runs.reader import is_being_written
from lamella.sweeps.job import SIGNAL_STATUSES, Job, OnEnd
from lamella.sweeps.launch.hydra_api import hydra_launcher
from lamella.sweeps.launch.worker import output_file, run_as_program

LEAVE = 40  # seconds in which a job saves what it has; Slurm waits 30 before it ends it
KEPT = ("SLURM_JOB_ID", "SLURM_CONF", "SLURM_RESTART_COUNT")


def launch_on_slurm(
    node: Mapping[str, Any], directory: Path, jobs: Iterator[Job], at_a_time: int, over: OnEnd, interrupts: Interrupts
) -> None:
    os.environ["SUBMITIT_PREEMPT_SIGNAL"] = "USR1"  # with which a run saves itself and asks to be requeued
    ended: queue.Queue[tuple[Job, int]] = queue.Queue()
    running: dict[Path, Job] = {}
    before: dict[Path, set[str]] = {}
    number, going = 0, True

    def folder(job: Job) -> Path:
        return directory / ".submitit" / job.path.name

    def wait(job: Job, number: int) -> None:
        status = 2
        own = {**node, "submitit_folder": f"{folder(job)}/%j"}
        try:
            [returned] = hydra_launcher(own, directory, _program).launch([[str(job.path)]], number)
            status = int(returned.return_value)
        except Exception as error:
            with suppress(OSError):
                output_file(job.path).write_text(f"error: Slurm: {first_line(error)}\n")
        finally:
            ended.put((job, status))

    while True:
        while going and not interrupts.received and len(running) < at_a_time and (job := next(jobs, None)):
            running[job.path], before[job.path] = job, _ids(folder(job))
            # They end with this process, which may leave before Slurm's jobs do.
            threading.Thread(target=wait, args=(job, number), daemon=True).start()
            number += 1
        if not running:
            return
        if interrupts.received:
            _cancel([(folder(job), before[path]) for path, job in running.items()])
            deadline = time.monotonic() + LEAVE
            while any(is_being_written(path) for path in running) and time.monotonic() < deadline:
                time.sleep(0.5)
            for job in running.values():
                over(job, 128 + interrupts.received)
            return
        try:
            job, status = ended.get(timeout=0.5)
        except queue.Empty:
            continue
        del running[job.path]
        going = over(job, status) and going


def _ids(folder: Path) -> set[str]:
    """Slurm's numbers of the jobs that were submitted for a member: each has a folder for what it prints."""
    return {path.name for path in folder.glob("[0-9]*")}


def _cancel(submitted: Sequence[tuple[Path, set[str]]]) -> None:
    """Let Slurm end jobs, once they have a number that they had not before."""
    deadline = time.monotonic() + LEAVE
    while time.monotonic() < deadline and not all(_ids(folder) - before for folder, before in submitted):
        time.sleep(0.2)
    ids = [number for folder, before in submitted for number in _ids(folder) - before]
    with suppress(OSError):
        subprocess.run(["scancel", *ids], check=False, capture_output=True)


def _program(config: Any) -> int:
    """What Slurm's job does: run it as a program, and hand on the signals by which Slurm tells it to leave."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_") or name in KEPT}
    status = run_as_program(config.path, environ)
    while status in (*SIGNAL_STATUSES, -signal.SIGTERM, -signal.SIGUSR1):
        signal.pause()  # Slurm ends this job, and may start it again: its result would be taken for the last
    return status
