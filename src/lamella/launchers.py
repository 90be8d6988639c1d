"""Hydra's launchers, given runs that are planned instead of overrides that are still to be composed."""

import copy
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
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

from lamella import records
from lamella.errors import RequestError, first_line
from lamella.guard import INSIDE, QUIET, SLURM, check_launcher
from lamella.interrupts import SIGNALS, Interrupts
from lamella.processes import begin, begin_program, output
from lamella.slots import Job, cores

# What submitit puts into a script.
SHELL = ("setup", "srun_args", "additional_parameters", "python", "use_srun")
LEAVE = 40  # seconds in which a job saves what it has; Slurm waits 30 before it ends it
KEPT = ("SLURM_JOB_ID", "SLURM_CONF", "SLURM_RESTART_COUNT")

ENDED = tuple(128 + number for number in SIGNALS)  # exit statuses of a job that a signal has ended

Over = Callable[[Job, int], bool]


class Planned(ConfigLoaderImpl):
    """What a launcher takes for Hydra's loader: it composes nothing, and hands the run's directory on."""

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        config = copy.deepcopy(master_config)
        config.hydra.overrides.task, config.path = sweep_overrides, sweep_overrides[0]
        return config


def check(node: Mapping[str, Any], given: Collection[str] = ()) -> None:
    """Raise RequestError where `node` is no launcher that runs what a sweep has planned.

    given: the keys of `hydra.launcher` that the command line set; what becomes part of a shell script has to be there.
    """
    check_launcher(node)
    for name in SHELL:
        if node.get(name) and name not in given:
            raise RequestError(
                f"hydra.launcher.{name}: this is run by a shell, so it is taken from the command line alone;\n"
                "  give the sweep's line with it",
                f"hydra.launcher.{name}",
            )
    for name in ("tasks_per_node", "nodes"):
        if node.get("_target_") == SLURM and node.get(name) != 1:
            raise RequestError(
                f"hydra.launcher.{name} is {node.get(name)!r}; a job is one task of Slurm's, which starts "
                "trainer.devices processes itself",
                f"hydra.launcher.{name}",
            )


def launch(
    node: Mapping[str, Any], directory: Path, jobs: Iterator[Job], at_a_time: int, over: Over, interrupts: Interrupts
) -> None:
    """Run the jobs with the launcher that `node` describes; `over` and `interrupts` are as for Slots.run.

    Slurm gets a job as soon as fewer than `at_a_time` are under way; another launcher gets so many together, or as many
    as it runs at a time.
    """
    if node["_target_"] == SLURM:
        _one_by_one(node, directory, jobs, at_a_time, over, interrupts)
        return
    going = True
    name = INSIDE[node["_target_"]]
    workers = int(node.get("n_jobs") or 0) if name == "joblib" else 0
    width = 1 if name == "basic" else min(at_a_time, workers if workers > 0 else cores())
    while going and not interrupts.received and (batch := list(islice(jobs, max(1, width)))):
        statuses = [1] * len(batch)
        try:
            returned = _launcher(node, directory, _inside).launch([[str(job.path)] for job in batch], 0)
            statuses = [int(one.return_value) for one in returned]
        except Exception as error:  # a worker that died, say; what became of each job stands in its record
            print(f"{name}: {first_line(error)}", file=sys.stderr)
        # A signal that came while a job was running in this process was the job's.
        interrupts.received = interrupts.received or next((one - 128 for one in statuses if one in ENDED), 0)
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
    running: dict[Path, Job] = {}
    before: dict[Path, set[str]] = {}
    number, going = 0, True

    def folder(job: Job) -> Path:
        return directory / ".submitit" / job.path.name

    def wait(job: Job, number: int) -> None:
        status = 2
        own = {**node, "submitit_folder": f"{folder(job)}/%j"}
        try:
            [returned] = _launcher(own, directory, _program).launch([[str(job.path)]], number)
            status = int(returned.return_value)
        except Exception as error:
            with suppress(OSError):
                output(job.path).write_text(f"error: Slurm: {first_line(error)}\n")
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
            while any(records.alive(path) for path in running) and time.monotonic() < deadline:
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


def _inside(config: Any) -> int:
    """What another launcher's process does with a job."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        return begin(config.path)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _program(config: Any) -> int:
    """What Slurm's job does: run it as a program, and hand on the signals by which Slurm tells it to leave."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_") or name in KEPT}
    status = begin_program(config.path, environ)
    while status in (*ENDED, -signal.SIGTERM, -signal.SIGUSR1):
        signal.pause()  # Slurm ends this job, and may start it again: its result would be taken for the last
    return status
