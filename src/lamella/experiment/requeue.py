"""Runs whose Slurm job is stopped and started again (requeued)."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from lamella.console import print
from lamella.errors import RequestError
from lamella.runs.reader import read_run

SLURM_JOB = "SLURM_JOB_ID"


def requeue_slurm_job(number: int) -> None:
    """Ask Slurm to start this job again where signal `number` is the warning that the time of the job is nearly over.

    A job that Slurm preempts is requeued by Slurm itself.
    """
    if number == signal.SIGUSR1 and SLURM_JOB in os.environ:
        try:
            subprocess.run(["scontrol", "requeue", os.environ[SLURM_JOB]], check=False)
        except OSError as error:
            print(f"Slurm could not be asked to start the job again: {error}", file=sys.stderr)


def find_requeued_run(parent: Path, overrides: list[str]) -> Path | None:
    """Return the run in `parent` that this Slurm job trained before it was requeued, None for a job that was not.

    overrides: those of the command line, by which the run is known among others of the job.
    """
    job = os.environ.get(SLURM_JOB)
    if job is None or not int(os.environ.get("SLURM_RESTART_COUNT") or 0):
        return None
    for path in sorted(path.parent for path in parent.glob("*/run.json")):
        with suppress(RequestError):  # a damaged run is not the one of this job
            fields, _ = read_run(path)
            if fields.get("job") == job and fields["overrides"] == overrides:
                return path
    return None
