"""Hydra's launchers, given runs that are planned instead of overrides that are still to be composed."""

import copy
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.conf import HydraConf
from hydra.core.plugins import Plugins
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from lamella.errors import RequestError, first_line
from lamella.guard import QUIET
from lamella.interrupts import Interrupts
from lamella.processes import begin, begin_program, output
from lamella.slots import Job

SLURM = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"
# Those that run a job within a process of theirs.
INSIDE = {
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher": "basic",
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher": "joblib",
    "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher": "ray",
}
KEPT = ("SLURM_JOB_ID", "SLURM_CONF", "SLURM_RESTART_COUNT")

Over = Callable[[Job, int], bool]


class Planned(ConfigLoaderImpl):
    """What a launcher takes for Hydra's loader: it composes nothing, and hands the run's directory on."""

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        config = copy.deepcopy(master_config)
        config.hydra.overrides.task, config.path = sweep_overrides, sweep_overrides[0]
        return config


def check(node: Mapping[str, Any]) -> None:
    """Raise RequestError where `node` is no launcher that runs what a sweep has planned."""
    target = node.get("_target_")
    if target is not None and target != SLURM and target not in INSIDE:
        raise RequestError(
            f"hydra.launcher is {target}; a sweep runs with local, slurm, basic, joblib or ray: "
            "hydra/launcher=NAME, where its package is installed",
            "hydra.launcher",
        )


def launch(
    node: Mapping[str, Any], directory: Path, jobs: Iterator[Job], at_a_time: int, over: Over, interrupts: Interrupts
) -> None:
    """Run the jobs with the launcher that `node` describes; `over` and `interrupts` are as for Slots.run.

    Slurm gets a job as soon as fewer than `at_a_time` are under way; another launcher gets so many together.
    """
    if node["_target_"] == SLURM:
        _one_by_one(node, directory, jobs, at_a_time, over, interrupts)
        return
    going = True
    while going and (batch := list(islice(jobs, max(1, at_a_time)))):
        statuses = [1] * len(batch)
        try:
            returned = _launcher(node, directory, _inside).launch([[str(job.path)] for job in batch], 0)
            statuses = [int(one.return_value) for one in returned]
        except Exception as error:  # a worker that died, say; what became of each job stands in its record
            print(f"{INSIDE[node['_target_']]}: {first_line(error)}", file=sys.stderr)
        for job, status in zip(batch, statuses, strict=True):
            going = over(job, status) and going


def _launcher(node: Mapping[str, Any], directory: Path, task: Callable[[Any], int]) -> Any:
    hydra = OmegaConf.structured(HydraConf)
    hydra.sweep.dir, hydra.sweep.subdir, hydra.output_subdir = str(directory), ".", None
    hydra.hydra_logging, hydra.job_logging = QUIET, QUIET
    hydra.job.name, hydra.job.chdir, hydra.launcher = "lamella", False, dict(node)
    config = OmegaConf.create({"hydra": hydra, "path": None})
    context = HydraContext(config_loader=Planned(ConfigSearchPathImpl()), callbacks=Callbacks())
    return Plugins.instance().instantiate_launcher(context, task, config)


def _one_by_one(
    node: Mapping[str, Any], directory: Path, jobs: Iterator[Job], at_a_time: int, over: Over, interrupts: Interrupts
) -> None:
    os.environ["SUBMITIT_PREEMPT_SIGNAL"] = "USR1"  # with which a run saves itself and asks to be requeued
    ended: queue.Queue[tuple[Job, int]] = queue.Queue()
    running, number, going = 0, 0, True

    def wait(job: Job, number: int) -> None:
        status = 1
        try:
            [returned] = _launcher(node, directory, _program).launch([[str(job.path)]], number)
            status = int(returned.return_value)
        except Exception as error:
            output(job.path).write_text(f"error: Slurm: {first_line(error)}\n")
        ended.put((job, status))

    while True:
        while going and not interrupts.received and running < at_a_time and (job := next(jobs, None)):
            # They end with this process, which may leave before Slurm's jobs do.
            threading.Thread(target=wait, args=(job, number), daemon=True).start()
            running, number = running + 1, number + 1
        if not running:
            return
        if interrupts.received:
            under_way = [path.name for path in (directory / ".submitit").iterdir() if path.name[:1].isdigit()]
            subprocess.run(["scancel", *under_way], check=False, capture_output=True)
            return
        try:
            job, status = ended.get(timeout=0.5)
        except queue.Empty:
            continue
        running -= 1
        going = over(job, status) and going


def _inside(config: Any) -> int:
    """What another launcher's process does with a job."""
    return begin(config.path)


def _program(config: Any) -> int:
    """What Slurm's job does: run it as a program, and hand on the signals by which Slurm tells it to leave."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_") or name in KEPT}
    status = begin_program(config.path, environ)
    while status in (128 + signal.SIGTERM, 128 + signal.SIGUSR1):
        signal.pause()  # Slurm ends this job, and may start it again: its result would be taken for the last
    return status
