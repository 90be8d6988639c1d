"""Estimate what a sweep will take: time, disk and memory, measured with a few steps of each structure of its jobs."""

import heapq
import json
import math
import random
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lamella.config.launcher import IN_PROCESS, SLURM, is_fused, is_local
from lamella.config.values import Config
from lamella.console import print
from lamella.errors import RequestError
from lamella.experiment.rehearsal import rehearsal_key
from lamella.experiment.requeue import requeue_slurm_job
from lamella.interrupts import Interrupts
from lamella.runs.sweep_directory import Member, Sweep
from lamella.sweeps.launch.forkserver import warm_up
from lamella.sweeps.launch.in_process import in_process_width
from lamella.sweeps.launch.local import LocalLauncher
from lamella.sweeps.measurement import Cost, Measurement, mean_cost
from lamella.tables import format_duration, format_size

FEW, SHORT = 8, 60.0  # so few jobs, or so few seconds, are not estimated unless that is asked for
MOST = 10  # the largest number of structures that are measured
SHARE = 0.1  # no further structure is measured once measuring has taken this share of the time of the sweep


@dataclass(frozen=True)
class Estimate:
    """What the unfinished jobs of a sweep take.

    at_a_time: how many of them run side by side. seconds: from the start of the first job to the end of the last one.
    disk: bytes. longest: the seconds of the longest job. memory, gpu_memory: the largest of any job, in bytes, 0 where
    that is not known. at_most: whether jobs may end earlier. remarks: what the estimate rests on.
    """

    jobs: int
    at_a_time: int
    seconds: float
    disk: float
    longest: float
    memory: float
    gpu_memory: float
    at_most: bool
    remarks: Sequence[str]

    @property
    def duration(self) -> str:
        """Return about how long the jobs take, as text."""
        return f"{'at most' if self.at_most else 'about'} {format_duration(self.seconds)}"

    def line(self) -> str:
        """Return the line that is printed before the jobs start."""
        parts = [
            f"{self.duration} for {self.jobs} job{'s' * (self.jobs != 1)}, {self.at_a_time} at a time",
            f"up to {format_size(self.disk)} of disk",
        ]
        parts += [f"{format_size(self.memory)} of memory at the peak of each job"] if self.memory else []
        parts += [f"{format_size(self.gpu_memory)} of GPU memory"] if self.gpu_memory else []
        return "; ".join([", ".join(parts), *self.remarks])

    def fields(self) -> dict[str, float]:
        """Return what `sweep.json` keeps: seconds and bytes."""
        names = ("jobs", "at_a_time", "seconds", "disk", "memory", "gpu_memory")
        return {name: round(getattr(self, name), 1) for name in names} | {"at_most": self.at_most}


def estimate_sweep(
    sweep: Sweep,
    members: Sequence[Member],
    launcher: Config,
    wanted: bool | None,
    expected: float = math.inf,
    trials: int | None = None,
    at_once: int | None = None,
) -> Estimate | None:
    """Return what the jobs of a sweep take that have not finished, or None where that is not estimated.

    Jobs are taken to be like those of their structure that have finished. If there are none, some are measured.

    members: the jobs, which need not be planned yet. launcher: the values of `hydra.launcher`. wanted: whether to
    measure, None to do so for a sweep of many jobs that takes long on this machine. expected: the seconds for which the
    members train at most. trials: the number of jobs, each of which is like one of the members; None for the members
    themselves. at_once: how many jobs are chosen at a time, None for any number. Raises RequestError where an estimate
    of fused jobs is wanted, and SystemExit after a signal.
    """
    count = len(members) if trials is None else trials
    if is_fused(launcher) and wanted:
        raise RequestError(
            "hydra/launcher=fused: what jobs take that are trained as one program is not estimated; leave "
            "sweep.measure\n  and sweep.budget out, or use hydra/launcher=local",
            "sweep.measure",
        )
    runs_here = is_local(launcher) or IN_PROCESS.get(launcher["_target_"]) in ("basic", "joblib")
    if not members or not count or is_fused(launcher) or (wanted is None and (count <= FEW or not runs_here)):
        return None
    at_a_time = _at_a_time(launcher, min(count, at_once or count), members[0].config)
    if wanted is None and expected * count / len(members) < SHORT * at_a_time:
        return None
    kinds: dict[str, list[Member]] = {}
    for member in members:
        kinds.setdefault(structure(member.config), []).append(member)
    costs = {kind: cost for kind, cost in _finished_costs(sweep).items() if kind in kinds}
    unknown = {kind: alike for kind, alike in kinds.items() if kind not in costs}
    remarks = []
    if unknown:
        if wanted is False:
            return None
        measured = _measured_costs(sweep, unknown, launcher, at_a_time, count, wanted)
        costs |= measured
        remarks += ["measured on this machine"] * (not runs_here)
        remarks += [f"{len(measured)} of {len(unknown)} structures measured"] * (len(measured) < len(unknown))
    if not costs:
        return None
    typical = mean_cost(list(costs.values()))
    each = [costs.get(structure(member.config), typical) for member in members]
    if trials is None:
        seconds = [cost.seconds * _missing_share(sweep, one) for cost, one in zip(each, members, strict=True)]
    else:
        seconds = [mean_cost(each).seconds] * trials
    estimate = Estimate(
        jobs=count,
        at_a_time=at_a_time,
        seconds=_wall_time(seconds, at_a_time),
        disk=mean_cost(each).disk * count,
        longest=max(cost.seconds for cost in each),
        memory=mean_cost(each).memory,
        gpu_memory=mean_cost(each).gpu_memory,
        at_most=any(_may_end_early(member.config) for member in members),
        remarks=remarks,
    )
    return None if wanted is None and estimate.seconds < SHORT else estimate


def check_budget(estimate: Estimate | None, budget: float) -> None:
    """Raise RequestError if a sweep takes longer than `budget` seconds, or may do so because there is no estimate."""
    if estimate is None:
        raise RequestError(
            "sweep.budget: the sweep is not started, because nothing tells what it takes; leave sweep.budget out",
            "sweep.budget",
        )
    if estimate.seconds > budget:
        minutes = math.ceil(estimate.seconds / 60)
        enough = f"{minutes}min" if minutes < 180 else f"{math.ceil(minutes / 60)}h"
        raise RequestError(
            f"sweep.budget is {format_duration(budget)}, and the sweep takes {estimate.line()}\n"
            f"  write sweep.budget={enough}, fewer values or a smaller trainer.max_epochs; a search tries as many "
            "values\n  as there is time for: hydra/sweeper=optuna",
            "sweep.budget",
        )


def structure(config: Config) -> str:
    """Return a text that is equal for configs of the same work: they differ in seeds, folds, names and floats alone."""
    data = {name: value for name, value in config["data"].items() if name != "fold"}
    return json.dumps([rehearsal_key({**config, "data": data}), config["visuals"]], default=str)


def _at_a_time(launcher: Config, jobs: int, config: Config) -> int:
    """Return how many of `jobs` jobs a launcher runs at a time. config: of the first job."""
    if is_local(launcher):
        return LocalLauncher(launcher.get("slots")).at_a_time(jobs, config)
    if launcher["_target_"] == SLURM:
        return max(1, min(jobs, launcher.get("array_parallelism") or jobs))
    return in_process_width(launcher, jobs)


def _finished_costs(sweep: Sweep) -> dict[str, Cost]:
    """Return what jobs of each structure have taken that have finished."""
    costs: dict[str, list[Cost]] = {}
    for name, member in sweep.members.items():
        if (record := sweep.record(name)) and record["status"] == "finished":
            costs.setdefault(structure(member.config), []).append(Cost(record["seconds"], _size(sweep.path / name)))
    return {kind: mean_cost(several) for kind, several in costs.items()}


def _size(directory: Path) -> int:
    """Return the bytes of the files in a directory, of which each counts once, though it may have several names."""
    sizes: dict[int, int] = {}
    for file in directory.rglob("*"):
        with suppress(OSError):  # a tracker may be replacing a file
            status = file.lstat()
            sizes[status.st_ino] = status.st_size
    return sum(sizes.values())


def _measured_costs(
    sweep: Sweep,
    kinds: Mapping[str, Sequence[Member]],
    launcher: Config,
    at_a_time: int,
    count: int,
    wanted: bool | None,
) -> dict[str, Cost]:
    """Return what a job of each structure takes, of some structures if there are many.

    kinds: the members of each structure. count: the number of jobs in all. The other arguments are those of
    `estimate_sweep`.
    """
    if not is_local(launcher):
        warm_up()
    if launcher.get("_target_") == SLURM:
        side_by_side, local = 1, LocalLauncher(1)
    else:
        side_by_side, local = at_a_time, LocalLauncher(launcher.get("slots") if is_local(launcher) else at_a_time)
    costs, started = dict[str, Cost](), time.monotonic()
    with Interrupts(partial(local.send_signal, signal.SIGTERM, again=True)) as interrupts:
        print(f"{sweep.path}: measuring what {count} jobs will take", flush=True)
        measurement = Measurement(sweep, local, interrupts)
        for kind in random.Random(0).sample(list(kinds), min(len(kinds), MOST)):
            alike = kinds[kind]
            # Members from the whole list, because values at an end of it may be such that nothing can be trained.
            cost = measurement.cost([alike[number * len(alike) // side_by_side] for number in range(side_by_side)])
            if cost:
                costs[kind] = cost
                whole = mean_cost(list(costs.values())).seconds * count / at_a_time
                if (wanted is None and whole < SHORT) or time.monotonic() - started > SHARE * whole:
                    break
            if interrupts.received:
                break
    if interrupts.received:
        print("interrupted before the first job of the sweep was started", file=sys.stderr)
        requeue_slurm_job(interrupts.received)
        raise SystemExit(128 + interrupts.received)
    if not costs:
        print(f"note: what the sweep takes is not known: {measurement.cause}", file=sys.stderr)
    return costs


def _missing_share(sweep: Sweep, member: Member) -> float:
    """Return the part of a job that is still to be done, by its epochs."""
    record = sweep.record(member.name) if member.name in sweep.members else None
    epochs = member.config["trainer"].get("max_epochs")
    return 1 - min(1.0, record["epochs"] / epochs) if record and epochs and epochs > 0 else 1.0


def _wall_time(seconds: Sequence[float], at_a_time: int) -> float:
    """Return how long jobs take of which so many run at a time, where each starts as soon as there is room for it."""
    ends = [0.0] * at_a_time
    for one in seconds:
        heapq.heapreplace(ends, ends[0] + one)
    return max(ends)


def _may_end_early(config: Config) -> bool:
    """Return whether a callback may end the run before its last epoch."""
    targets = [str(node.get("_target_")) for node in config["trainer"].get("callbacks") or []]
    ends = any(target.endswith(("EarlyStopping", ".Pruning")) for target in targets)
    return ends or config["trainer"].get("early_stopping") is not None
