"""Plan the jobs of a sweep before the first one starts: compose each config, check it, and build it without weights."""

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig

from lamella.config.composed import SweepComposer
from lamella.config.diagnostics import explained_error
from lamella.config.values import Config
from lamella.console import print
from lamella.data import RunData
from lamella.errors import RequestError
from lamella.experiment.build import build_experiment
from lamella.experiment.experiment import Experiment
from lamella.experiment.rehearsal import rehearsal_key, rehearse
from lamella.runs.sweep_directory import Member
from lamella.tracking.trackers import check_trackers
from lamella.training.device import needs_own_program, process_count


@dataclass(frozen=True)
class PlannedJob:
    """A member of a sweep that can be run.

    parameters: the number of the network's parameters. processes: the number of processes that share the work. seconds:
    about how many seconds the training takes at most, infinite where that is not known.
    """

    member: Member
    experiment: Experiment
    parameters: int
    processes: int
    seconds: float

    def with_threads(self, threads: int | None) -> "PlannedJob":
        """Return the job with `threads` CPU threads, if it runs on the CPU and its config gives no number."""
        device = self.member.config["device"]
        if threads is None or device["threads"] is not None or self.experiment.device.accelerator != "cpu":
            return self
        config = {**self.member.config, "device": {**device, "threads": max(1, threads // self.processes)}}
        return replace(self, member=replace(self.member, config=config))


class Planner:
    """Composes and checks the jobs of a sweep.

    loader, config: what Hydra gives a sweeper. own_process: whether the launcher runs each job in a process of its own,
    which can start further processes.
    """

    def __init__(self, loader: ConfigLoader, config: DictConfig, own_process: bool = True) -> None:
        self.composer, self.own_process = SweepComposer(loader, config), own_process
        self.data: dict[str, RunData] = {}  # the data that was built, by its config
        self.outcomes: dict[str, RequestError | float] = {}  # of the checks that are made once for several jobs

    def plan(self, name: str, overrides: Sequence[str]) -> PlannedJob:
        """Compose the job with these overrides, and build it on the meta device, where weights take no memory.

        name: of the directory of the run. Raises RequestError, and what Hydra and OmegaConf raise.
        """
        job = self.composer.job(overrides)
        check_trackers(job.config.get("tracking") or {})
        data = json.dumps({key: value for key, value in job.config["data"].items() if key != "seed"}, default=str)
        experiment = build_experiment(job.config, job.references, self.data.get(data), written=job.written)
        self.data.setdefault(data, experiment.data)
        source = json.dumps(job.config["data"].get("source"), default=str)
        self._once(source, partial(_look_at, experiment.data))
        network = experiment.outline()
        processes = self._checked_processes(job.config["trainer"], experiment.device.accelerator)
        seconds = math.inf
        if experiment.device.accelerator == "cpu":  # on a GPU, each job is tried when it starts
            seconds = self._once(rehearsal_key(job.config), partial(rehearse, experiment, job.config))
        member = Member(name, list(overrides), experiment.completed(job.config), job.reads, job.choices)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        epochs = math.inf if experiment.epochs is None else experiment.epochs
        return PlannedJob(member, experiment, parameters, processes, seconds * epochs)

    def _once(self, key: str, check: Callable[[], float | None]) -> float:
        """Make a check, unless one with this key has been made, and return its result, 0 where it has none.

        Raises RequestError again where that one did.
        """
        if key not in self.outcomes:
            try:
                self.outcomes[key] = check() or 0.0
            except RequestError as error:
                error.__cause__ = error.__context__ = None  # their frames would keep the whole experiment in memory
                self.outcomes[key] = error
        outcome = self.outcomes[key]
        if isinstance(outcome, RequestError):
            raise outcome.with_traceback(None)
        return outcome

    def plan_all(self, jobs: Mapping[str, Sequence[str]], skip_invalid: bool) -> tuple[list[PlannedJob], int, int]:
        """Plan the jobs.

        jobs: the overrides of each job, by the name of its directory. skip_invalid: print the error of each job that
        cannot be run, and leave the job out. Returns the planned jobs, the number of jobs left out because an earlier
        one has the same config, and the number of those that cannot be run. Raises RequestError with the errors of all
        jobs that cannot be run, unless they are left out.
        """
        planned: dict[str, PlannedJob] = {}
        invalid, count, refusals = 0, 0, dict[str, str]()
        for name, overrides in jobs.items():
            count += 1
            try:
                job = self.plan(name, overrides)
            except Exception as error:
                invalid += 1
                text = str(explained_error(error, list(overrides), partial(self.composer.files, overrides)))
                if text not in refusals:  # several jobs may be wrong for one reason
                    refusals[text] = f"{text}\n  in the job {' '.join(overrides)}"
                    if skip_invalid:
                        print(f"error: {refusals[text]}", file=sys.stderr)
            else:
                planned.setdefault(json.dumps(job.member.config), job)
        if refusals and not skip_invalid:
            raise RequestError("\nerror: ".join(refusals.values()))
        return list(planned.values()), count - invalid - len(planned), invalid

    def _checked_processes(self, trainer: Config, accelerator: str) -> int:
        """Return the number of processes of a job. Raises RequestError where a sweep cannot run such a job."""
        if trainer.get("num_nodes", 1) != 1:
            raise RequestError("trainer.num_nodes: a job of a sweep has one machine", "trainer.num_nodes")
        devices, processes = trainer.get("devices", 1), process_count(trainer, accelerator)
        names_devices = isinstance(devices, list) or (isinstance(devices, str) and "," in devices)
        if processes < 1 or (accelerator == "cuda" and names_devices):
            raise RequestError(
                f"trainer.devices is {devices!r}; a job of a sweep is given its devices, write how many",
                "trainer.devices",
            )
        if needs_own_program(trainer, processes) and not self.own_process:
            raise RequestError(
                "trainer: this launcher cannot run a job of several processes; "
                "use hydra/launcher=local or hydra/launcher=slurm",
                "trainer.strategy",
            )
        return processes


def _look_at(data: RunData) -> None:
    """Check the headers of image files, and print what a user should know of the data. Raises UnreadableImages."""
    data.check_headers()
    for note in [*([data.left_out] if data.left_out else []), *data.notes()]:
        print(f"note: {note}", file=sys.stderr)
