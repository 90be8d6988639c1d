"""Run jobs with a launcher of Hydra's that runs each job within a process of the launcher: basic, joblib or ray."""

import signal
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from omegaconf import DictConfig

from lamella.config.launcher import IN_PROCESS
from lamella.config.values import Config
from lamella.console import print
from lamella.errors import first_line
from lamella.interrupts import SIGNALS, Interrupts, set_handler
from lamella.sweeps.job import SIGNAL_STATUSES, Job, OnEnd
from lamella.sweeps.launch.hydra_api import hydra_launcher
from lamella.sweeps.launch.worker import run_here
from lamella.training.device import available_cores


def launch_in_process(
    launcher: Config, directory: Path, jobs: Iterator[Job], at_a_time: int, on_end: OnEnd, interrupts: Interrupts
) -> None:
    """Run the jobs, and return when all have ended or, after a signal, the running ones have.

    launcher: the values of `hydra.launcher`. directory: that of the sweep. at_a_time: the largest number of jobs that
    the launcher gets together; it never gets more than it runs at a time.
    """
    name, width = IN_PROCESS[launcher["_target_"]], in_process_width(launcher, at_a_time)
    more = True
    while more and not interrupts.received and (batch := list(islice(jobs, width))):
        statuses = [1] * len(batch)
        try:
            results = hydra_launcher(launcher, directory, _run_in_launcher).launch(
                [[str(job.path)] for job in batch], 0
            )
            statuses = [int(result.return_value) for result in results]
        except Exception as error:  # for example a worker died; the record of each job tells how far it got
            print(f"{name}: {first_line(error)}", file=sys.stderr)
        # While a job runs in this process, the job receives the signals that are sent to the sweep.
        signals = [status - 128 for status in statuses if status in SIGNAL_STATUSES]
        interrupts.received = interrupts.received or next(iter(signals), 0)
        for job, status in zip(batch, statuses, strict=True):
            more = on_end(job, status) and more


def in_process_width(launcher: Config, jobs: int) -> int:
    """Return how many of `jobs` jobs a launcher runs at a time."""
    name = IN_PROCESS[launcher["_target_"]]
    workers = int(launcher.get("n_jobs") or 0) if name == "joblib" else 0
    return 1 if name == "basic" else max(1, min(jobs, workers if workers > 0 else available_cores()))


def _run_in_launcher(config: DictConfig) -> int:
    """Run a job in a process of the launcher, and put the signal handlers of the process back afterwards."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        return run_here(Path(config.path))
    finally:
        for number, handler in handlers.items():
            set_handler(number, handler)
