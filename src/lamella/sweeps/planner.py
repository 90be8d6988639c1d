"""The jobs of a sweep before the first one starts: each composed, built without weights, and frozen."""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lamella.config.composed import SweepComposer
from lamella.config.diagnostics import error_block
from lamella.data import Data
from lamella.errors import RequestError
from lamella.experiment.build import build_experiment
from lamella.experiment.experiment import Experiment
from lamella.network.freeze import freeze_parameters
from lamella.runs.names import slug
from lamella.runs.sweep_directory import Member
from lamella.training.device import needs_own_program, process_count


@dataclass(frozen=True)
class PlannedJob:
    """A member that can be run. parameters: of its network. processes: those that share its work."""

    member: Member
    experiment: Experiment
    parameters: int
    processes: int

    def with_threads(self, threads: int | None) -> "PlannedJob":
        """With so many CPU threads where its config left that open and it runs on the CPU."""
        device = self.member.config["device"]
        if threads is None or device["threads"] is not None or self.experiment.device.accelerator != "cpu":
            return self
        config = {**self.member.config, "device": {**device, "threads": max(1, threads // self.processes)}}
        return replace(self, member=replace(self.member, config=config))


class Planner:
    """Composes and checks jobs.

    loader, config: Hydra's, as a sweeper gets them. alone: whether a member can have processes of its own.
    """

    def __init__(self, loader: ConfigLoader, config: DictConfig, alone: bool = True) -> None:
        self.composed, self.alone = SweepComposer(loader, config), alone
        self.data: dict[str, Data] = {}

    def plan(self, overrides: Sequence[str]) -> PlannedJob:
        """One job, composed and built on the meta device, where weights take no memory.

        Raises RequestError, and what Hydra and OmegaConf raise.
        """
        job = self.composed.job(overrides)
        data = json.dumps({key: value for key, value in job.config["data"].items() if key != "seed"}, default=str)
        experiment = build_experiment(job.config, job.references, self.data.get(data))
        self.data[data] = experiment.data
        with torch.device("meta"):
            network = experiment.plan.build()
        freeze_parameters(network, experiment.freeze)
        if job.config["trainer"].get("num_nodes", 1) != 1:
            raise RequestError("trainer.num_nodes: a job of a sweep has one machine", "trainer.num_nodes")
        accelerator, devices = experiment.device.accelerator, job.config["trainer"].get("devices", 1)
        processes = process_count(job.config["trainer"], accelerator)
        named = isinstance(devices, list) or (isinstance(devices, str) and "," in devices)
        if processes < 1 or (accelerator == "cuda" and named):
            raise RequestError(
                f"trainer.devices is {devices!r}; a job of a sweep is given its devices, write how many",
                "trainer.devices",
            )
        if needs_own_program(job.config["trainer"], processes) and not self.alone:
            raise RequestError(
                "trainer: several processes in a job that has none of its own; "
                "use hydra/launcher=local or hydra/launcher=slurm",
                "trainer.strategy",
            )
        member = Member(slug(overrides), list(overrides), job.config, job.reads, job.choices)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        return PlannedJob(member, experiment, parameters, processes)

    def plans(self, jobs: Iterable[Sequence[str]]) -> tuple[list[PlannedJob], int, int]:
        """All jobs; what cannot be run is said. Returns the others, each config once, and the numbers of both."""
        planned: dict[str, PlannedJob] = {}
        invalid, count, told = 0, 0, set[str]()
        for overrides in jobs:
            count += 1
            try:
                found = self.plan(overrides)
            except Exception as error:
                invalid += 1
                block = error_block(error, list(overrides), self.choices())
                if block not in told:  # several may be wrong for one reason
                    told.add(block)
                    print(f"{block}\n  in the job {' '.join(overrides)}", file=sys.stderr)
            else:
                planned.setdefault(json.dumps(found.member.config), found)
        return list(planned.values()), count - invalid - len(planned), invalid

    def choices(self) -> dict[str, Any]:
        """The option of each group in what was composed last."""
        return dict(HydraConfig.get().runtime.choices) if HydraConfig.initialized() else {}
