"""Everything that a run needs."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import pytorch_lightning as pl
import torch
from torch import nn
from torch.optim import Optimizer

from lamella.data import Data
from lamella.errors import RequestError, first_line
from lamella.network.freeze import freeze_parameters
from lamella.network.plan import Plan
from lamella.training.checkpointing import CheckpointInterval
from lamella.training.cuda_graphs import CudaGraphs
from lamella.training.device import Device
from lamella.training.scheduler import Schedule
from lamella.training.task import Task


@dataclass(frozen=True)
class Experiment:
    """Everything that a run needs, made from one config; only the network's weights are left for `task`.

    freeze: patterns of the names of parameters that are not trained.
    """

    name: str
    seed: int
    monitor: str
    device: Device
    data: Data
    plan: Plan
    freeze: list[str]
    loss: nn.Module
    metric: str
    optimizer: Callable[..., Optimizer]
    schedule: Schedule
    trainer: Callable[..., pl.Trainer]
    epochs: int | None
    checkpoint_every: CheckpointInterval
    chunk: int | None

    @cached_property
    def task(self) -> Task:
        """Network and loss; the weights are drawn after `torch.manual_seed(seed)`. Raises RequestError."""
        try:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(self.seed)
                network = self.plan.build()
        except (RuntimeError, MemoryError) as error:
            raise RequestError(f"network: it cannot be made: {first_line(error)}", "network") from error
        freeze_parameters(network, self.freeze)
        task = Task(network, self.loss, self.optimizer, self.schedule, self.metric, self.seed)
        if self.device.graph:
            task.run_chunk = CudaGraphs()
        return task
