"""The objects of a run."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn
from torchmetrics import Metric

from lamella.config.values import Config
from lamella.data import RunData
from lamella.errors import RequestError, first_line, own_frames
from lamella.experiment.initial_weights import InitialWeights
from lamella.experiment.task_kind import PARTS, OptimizerFactory, TaskKind
from lamella.network.freeze import Freeze, freeze_parameters, last_frozen_epochs
from lamella.network.plan import Plan
from lamella.runs.ranking import larger_is_better
from lamella.seeds import kept_random_state, reseed
from lamella.training.checkpoint_interval import CheckpointInterval
from lamella.training.cuda_graphs import CudaGraphs
from lamella.training.device import Device
from lamella.training.epoch_metrics import is_lower_better
from lamella.training.objective import Objective
from lamella.training.optimizers import SINGLE, OptimizerPlan, prefix
from lamella.training.own_module import OwnModule, by_stage, defines, title
from lamella.training.recipe import Recipe
from lamella.training.scheduler import Schedule
from lamella.training.task import Task
from lamella.training.trainer import quiet_lightning

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Experiment:
    """Everything that a run needs, built from one config. The network's weights are drawn when `task` is first read.

    make_task: returns the LightningModule, a Task without its network, another one from the objects in `kind.given`.
    kind: what is known of it before it is made. plan: the network, without weights. weights: those that a new run takes
    in place of drawn ones, None to take none. freeze: for each pattern of names of the network's parameters the last
    epoch in which these are not trained, None for all epochs. metrics: by name, those that are counted beside the loss
    and the objective's own. factory: the `optimizer` of a LightningModule that takes one. optimizers: those of a Task
    by name, or a single one under the name SINGLE. The plan and the schedule are None where the LightningModule makes
    its own. trainer: makes the Trainer, called with the first callbacks, the last ones, the loggers and further
    arguments. test: whether the best checkpoint is tested after the training. recipe: the averages of the weights,
    early stopping and kept checkpoints. class_weights: of each class, where `loss.weight` is "balanced". epochs: None
    where something else limits the run. chunk: the number of batches of a chunk, None to choose it by the time that a
    chunk takes.
    """

    name: str
    seed: int
    monitor: str
    device: Device
    data: RunData
    make_task: Callable[..., pl.LightningModule]
    kind: TaskKind
    plan: Plan | None
    weights: InitialWeights | None
    freeze: Freeze
    objective: Objective
    metrics: dict[str, Metric]
    factory: OptimizerFactory | None
    optimizers: dict[str, OptimizerPlan]
    schedule: Schedule | None
    trainer: Callable[..., pl.Trainer]
    test: bool
    recipe: Recipe
    class_weights: Tensor | None
    epochs: int | None
    checkpoint_every: CheckpointInterval
    chunk: int | None

    @property
    def thaws(self) -> bool:
        """Return True if parameters are frozen in the first epochs alone."""
        return any(epoch is not None for epoch in self.freeze.values())

    @property
    def has_several_optimizers(self) -> bool:
        """Return True if the optimizers have names, and take turns in each batch."""
        return bool(self.optimizers) and SINGLE not in self.optimizers

    @property
    def losses(self) -> list[str]:
        """Return the names of the losses: `loss`, and that of each of several optimizers."""
        return list(dict.fromkeys(["loss", *(f"{prefix(name)}loss" for name in self.optimizers)]))

    @property
    def counted(self) -> list[str]:
        """Return the names of the metrics that are logged for each stage, as in val/loss."""
        return [*self.losses, *filter(None, [self.objective.metric]), *self.metrics]

    @property
    def lower_is_better(self) -> list[str]:
        """Return the names of the metrics of which less is better."""
        default = [self.objective.metric] if self.objective.kind == "numbers" else []
        return [*self.losses, *default, *(name for name, metric in self.metrics.items() if is_lower_better(metric))]

    @property
    def mode(self) -> Literal["min", "max"]:
        """Return whether a smaller or a larger value of the monitored metric is the better one."""
        return "max" if larger_is_better(self.monitor, self.lower_is_better) else "min"

    def completed(self, config: Config) -> Config:
        """Return the config with what the data tells of the samples, as their shape, where its key is null.

        Balanced class weights are numbers, and groups that the task does not take are empty. From such a config the
        network and the loss can be built without the data.
        """
        config = {**config, **{group: {} for group in PARTS if not self.kind.takes(group)}}
        if self.class_weights is not None:
            config = {**config, "loss": {**config["loss"], "weight": self.class_weights.tolist()}}
        found = {key: value for key, value in self.data.found.items() if config["data"].get(key) is None}
        return {**config, "data": {**config["data"], **found}} if found else config

    @cached_property
    def module(self) -> pl.LightningModule:
        """Return the LightningModule that is trained, as `made` returns it."""
        return self.made()

    @property
    def task(self) -> Task:
        """Return the LightningModule where it is a Task, which has a network, a loss and an objective."""
        assert isinstance(self.module, Task)
        return self.module

    def made(self) -> pl.LightningModule:
        """Return the LightningModule, with the weights that are drawn after `torch.manual_seed(seed)`.

        The weights are drawn by torch's generator for the CPU. All generators are put back into their state afterwards.
        Parameters that are frozen in the first epochs alone are not frozen yet, so that the optimizer is made of them
        too.

        Raises RequestError where the network cannot be built, as when its weights do not fit into memory, or where the
        file of pretrained weights is damaged.
        """
        with kept_random_state(CPU), quiet_lightning():
            reseed(self.seed, CPU)
            network = self._network() if self.plan else None
            parts = {"network": network, "loss": self.objective.loss, "optimizer": self.factory}
            module = self.make_task(**{name: parts[name] for name in self.kind.given})
        if self.kind.is_task:
            if not isinstance(module, Task):
                made = type(module)
                raise RequestError(
                    f"task: the function gives a {title(made)}; it has to say so, as in -> {made.__name__}", "task"
                )
            assert network
            assert self.schedule
            plans = self.optimizers
            if self.thaws:
                thaws = last_frozen_epochs(network, self.freeze)
                plans = {name: replace(plan, thaws=thaws) for name, plan in plans.items()}
            module.attach(network, self.objective, plans, self.schedule, self.seed, self.metrics)
            if self.device.graph:
                module.run_chunk = CudaGraphs()
        return module

    def outline(self) -> nn.Module:
        """Return what is trained, without weights where the network alone is. Raises RequestError as `made` does."""
        if not self.kind.is_task or self.plan is None:
            return self.made()
        network = self.plan.outline()
        freeze_parameters(network, self.freeze)
        return network

    def callbacks(self, loggers: Sequence[Logger]) -> list[OwnModule]:
        """Return the callbacks that a LightningModule of the project's own needs; a Task needs none."""
        return [] if self.kind.is_task else [OwnModule(self.seed, loggers, self.kind.given)]

    def notes(self) -> list[str]:
        """Return what a user should know of a run that overfits, its precision, its monitor, and of lost promises."""
        notes = [
            "trainer.overfit: each epoch trains the same batches, those of the first one, and validates with them; "
            "nothing is tested"
        ] * self.data.overfit + self.device.notes()
        better = "larger" if self.mode == "max" else "smaller"
        if self.kind.is_task:
            is_own = self.monitor.rpartition("/")[2] not in self.counted
            return notes + [f"a {better} {self.monitor} counts as better"] * is_own
        name, made = self.kind.title, self.kind.made
        notes.append(
            f"{name} is a LightningModule: batches are trained one by one; a resumed run is exact if all that the "
            "module remembers is in its parameters, buffers and checkpoints; "
            f"a {better} {self.monitor} counts as better"
        )
        if self.data.validates and not defines(made, "validation_step"):
            notes.append(f"{name} has no validation_step, so the samples for validation are not used")
        if not defines(made, "test_step") and not self.data.overfit:
            notes.append(f"{name} has no test_step, so it is not tested")
        return notes

    def test_metrics(self, logged: Mapping[str, float]) -> dict[str, float]:
        """Return the metrics among what a test has logged, each as test/…."""
        if self.kind.is_task:  # a callback may have logged other values
            return {name: value for name, value in logged.items() if name.startswith("test/")}
        return by_stage("test", logged)

    def _network(self) -> nn.Module:
        assert self.plan
        try:
            network = self.plan.build()
        except RequestError:
            raise
        except Exception as error:
            message = f"network: it cannot be made: {first_line(error)}{own_frames(error)}"
            raise RequestError(message, "network") from error
        freeze_parameters(network, self.freeze)  # refuses what leaves nothing to train in the first epoch
        if self.thaws:
            freeze_parameters(network, self.freeze, math.inf)
        if self.device.channels_last:
            network.to(memory_format=torch.channels_last)
        return network
