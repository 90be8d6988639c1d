"""The objects of a run."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import Metric

from lamella.config.values import Config
from lamella.data import Data
from lamella.errors import RequestError, first_line, own_frames
from lamella.network.freeze import freeze_parameters
from lamella.network.plan import Plan
from lamella.runs.ranking import larger_is_better
from lamella.training.checkpointing import CheckpointInterval
from lamella.training.cuda_graphs import CudaGraphs
from lamella.training.device import Device
from lamella.training.epoch_metrics import is_lower_better
from lamella.training.objective import Objective
from lamella.training.recipe import Recipe
from lamella.training.scheduler import Schedule
from lamella.training.task import Task


@dataclass(frozen=True)
class Experiment:
    """Everything that a run needs, built from one config. The network's weights are drawn when `task` is first read.

    make_task: returns the LightningModule, without the network. plan: the network, without weights. freeze: patterns of
    the names of parameters that are not trained. metrics: by name, those that are counted beside the loss and the
    objective's own. optimizer: makes the optimizer of parameters. trainer: makes the Trainer, called with the first
    callbacks, the last ones, the loggers and further arguments. test: whether the best checkpoint is tested after the
    training. recipe: the averages of the weights, early stopping and kept checkpoints. class_weights: of each class,
    where `loss.weight` is "balanced". epochs: None where something else limits the run. chunk: the number of batches of
    a chunk, None to choose it by the time that a chunk takes.
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
    optimizer: Callable[..., Optimizer]
    schedule: Schedule
    trainer: Callable[..., pl.Trainer]
    test: bool
    recipe: Recipe
    class_weights: Tensor | None
    epochs: int | None
    checkpoint_every: CheckpointInterval
    chunk: int | None

    @property
    def counted(self) -> list[str]:
        """Return the names of the metrics that are logged for each stage, as in val/loss."""
        return ["loss", *filter(None, [self.objective.metric]), *self.metrics]

    @property
    def lower_is_better(self) -> list[str]:
        """Return the names of the metrics of which less is better."""
        default = [self.objective.metric] if self.objective.kind == "numbers" else []
        return ["loss", *default, *(name for name, metric in self.metrics.items() if is_lower_better(metric))]

    @property
    def mode(self) -> Literal["min", "max"]:
        """Return whether a smaller or a larger value of the monitored metric is the better one."""
        return "max" if larger_is_better(self.monitor, self.lower_is_better) else "min"

    def completed(self, config: Config) -> Config:
        """Return the config with the shape of the samples where its `data.shape` is null, and with the class weights.

        From such a config the network and the loss can be built without the data.
        """
        if self.class_weights is not None:
            config = {**config, "loss": {**config["loss"], "weight": self.class_weights.tolist()}}
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
        task.attach(network, self.objective, self.optimizer, self.schedule, self.seed, self.metrics)
        if self.device.graph:
            task.run_chunk = CudaGraphs()
        return task
