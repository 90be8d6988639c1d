"""Runs that Slurm takes off a machine and starts again."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from lamella.errors import RequestError
from lamella.runs.reader import read_run

SLURM_JOB = "SLURM_JOB_ID"


def requeue_slurm_job(number: int) -> None:
    """Ask Slurm to start the job again where it has warned that its time is up; where it preempts, it does so alone."""
    if number == signal.SIGUSR1 and SLURM_JOB in os.environ:
        try:
            subprocess.run(["scontrol", "requeue", os.environ[SLURM_JOB]], check=False)
        except OSError as error:
            print(f"Slurm could not be asked to start the job again: {error}", file=sys.stderr)


def find_requeued_run(parent: Path, overrides: list[str]) -> Path | None:
    """The run that this job of Slurm's had begun when it was taken off its machine, if it is one that was."""
    job = os.environ.get(SLURM_JOB)
    if job is None or not int(os.environ.get("SLURM_RESTART_COUNT", 0)):
        return None
    for path in sorted(path.parent for path in parent.glob("*/run.json")):
        with suppress(RequestError):  # one that is damaged is another's
            fields, _ = read_run(path)
            if fields.get("job") == job and fields["overrides"] == overrides:
                return path
    return None
