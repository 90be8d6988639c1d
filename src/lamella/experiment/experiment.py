"""The objects of a run."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import pytorch_lightning as pl
import torch
from torchmetrics import Metric

from lamella.config.values import Config
from lamella.data import Data
from lamella.errors import RequestError, first_line, own_frames
from lamella.network.freeze import freeze_parameters
from lamella.network.plan import Plan
from lamella.training.checkpointing import CheckpointInterval
from lamella.training.cuda_graphs import CudaGraphs
from lamella.training.device import Device
from lamella.training.epoch_metrics import is_lower_better
from lamella.training.objective import Objective
from lamella.training.optimizers import SINGLE, OptimizerPlan, prefix
from lamella.training.scheduler import Schedule
from lamella.training.task import Task


@dataclass(frozen=True)
class Experiment:
    """Everything that a run needs, built from one config. The network's weights are drawn when `task` is first read.

    make_task: returns the LightningModule, without the network. plan: the network, without weights. freeze: patterns of
    the names of parameters that are not trained. metrics: by name, those that are counted beside the loss and the
    objective's own. optimizers: by name, or a single one under the name SINGLE. trainer: makes the Trainer, called with
    the first callback, the last ones, the loggers and further arguments. test: whether the best checkpoint is tested
    after the training. epochs: None where something else limits the run. chunk: the number of batches of a chunk, None
    to choose it by the time that a chunk takes.
    """

    name: str
    seed: int
    monitor: str
    device: Device
    data: Data
    make_task: Callable[[], Task]
    plan: Plan
    freeze: list[str]
    objective: Objective
    metrics: dict[str, Metric]
    optimizers: dict[str, OptimizerPlan]
    schedule: Schedule
    trainer: Callable[..., pl.Trainer]
    test: bool
    epochs: int | None
    checkpoint_every: CheckpointInterval
    chunk: int | None

    @property
    def has_several_optimizers(self) -> bool:
        """Return True if the optimizers have names, and take turns in each batch."""
        return SINGLE not in self.optimizers

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

    def completed(self, config: Config) -> Config:
        """Return the config with the shape of the samples where its `data.shape` is null.

        From such a config the network can be built without the data.
        """
        shape = self.data.shape
        if config["data"].get("shape") is not None:
            return config
        plain = {name: list(one) for name, one in shape.items()} if isinstance(shape, dict) else list(shape)
        return {**config, "data": {**config["data"], "shape": plain}}

    @cached_property
    def task(self) -> Task:
        """Return the LightningModule, with the weights that are drawn after `torch.manual_seed(seed)`.

        The weights are drawn by torch's generator for the CPU, whose state is put back afterwards.

        Raises RequestError where the network cannot be built, as when its weights do not fit into memory, or where the
        file of pretrained weights is damaged.
        """
        try:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(self.seed)
                network = self.plan.build()
        except RequestError:
            raise
        except Exception as error:
            message = f"network: it cannot be made: {first_line(error)}{own_frames(error)}"
            raise RequestError(message, "network") from error
        freeze_parameters(network, self.freeze)
        task = self.make_task()
        task.attach(network, self.objective, self.optimizers, self.schedule, self.seed, self.metrics)
        if self.device.graph:
            task.run_chunk = CudaGraphs()
        return task
