"""Hydra's launchers, given runs that are planned instead of overrides that are still to be composed."""

import signal
import sys
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from lamella.config.launcher import IN_PROCESS
from lamella.errors import first_line
from lamella.interrupts import SIGNALS, Interrupts
from lamella.sweeps.job import SIGNAL_STATUSES, Job, OnEnd
from lamella.sweeps.launch.hydra_api import hydra_launcher
from lamella.sweeps.launch.worker import run_here
from lamella.training.device import available_cores


def launch_in_process(
    node: Mapping[str, Any], directory: Path, jobs: Iterator[Job], at_a_time: int, over: OnEnd, interrupts: Interrupts
) -> None:
    """Run the jobs with the launcher that `node` describes; `over` and `interrupts` are as for Slots.run.

    Slurm gets a job as soon as fewer than `at_a_time` are under way; another launcher gets so many together, or as many
    as it runs at a time.
    """
    going = True
    name = IN_PROCESS[node["_target_"]]
    workers = int(node.get("n_jobs") or 0) if name == "joblib" else 0
    width = 1 if name == "basic" else min(at_a_time, workers if workers > 0 else available_cores())
    while going and not interrupts.received and (batch := list(islice(jobs, max(1, width)))):
        statuses = [1] * len(batch)
        try:
            returned = hydra_launcher(node, directory, _inside).launch([[str(job.path)] for job in batch], 0)
            statuses = [int(one.return_value) for one in returned]
        except Exception as error:  # a worker that died, say; what became of each job stands in its record
            print(f"{name}: {first_line(error)}", file=sys.stderr)
        # A signal that came while a job was running in this process was the job's.
        interrupts.received = interrupts.received or next((one - 128 for one in statuses if one in SIGNAL_STATUSES), 0)
        for job, status in zip(batch, statuses, strict=True):
            going = over(job, status) and going


def _inside(config: Any) -> int:
    """What another launcher's process does with a job."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        return run_here(config.path)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
