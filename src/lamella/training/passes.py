"""Count one pass over the data: the losses and metrics for each optimizer, and the time."""

import math
import time
from collections.abc import Collection, Mapping
from typing import NotRequired, TypedDict

import pytorch_lightning as pl
import torch
from torch import Tensor
from torchmetrics import Metric

from lamella.training.epoch_metrics import EpochMetrics
from lamella.training.metrics import Counters, CountersState
from lamella.training.objective import Objective
from lamella.training.optimizers import SINGLE, prefix


class SavedPass(TypedDict):
    """The state of an unfinished pass in a checkpoint, which holds for a single optimizer its CountersState too.

    seconds: since the beginning. paused: those that validations took. val: the metrics of the last validation.
    optimizers: the state of the counters of several optimizers, by name.
    """

    seconds: float
    paused: float
    val: dict[str, float]
    optimizers: NotRequired[dict[str, CountersState]]


class Pass:
    """What is counted in one pass over the data, in Counters for each optimizer by its name.

    names: of the optimizers. objective, metrics: as for EpochMetrics.
    """

    def __init__(self, names: Collection[str], objective: Objective, metrics: Mapping[str, Metric]) -> None:
        self.started = time.perf_counter()
        self.paused = 0.0  # seconds that validations during the pass took
        self.counters = {name: Counters(EpochMetrics(objective, metrics), prefix(name)) for name in names}

    @property
    def samples(self) -> int:
        """Return the number of samples of the pass; one of the optimizers has its turn in each batch."""
        return max(sum(counters.samples) for counters in self.counters.values())

    def times(self, world: int) -> dict[str, float]:
        """Return the seconds since the beginning, and the samples that `world` processes have trained in a second."""
        seconds = time.perf_counter() - self.started
        return {"seconds": seconds, "samples_per_second": self.samples * world / (seconds - self.paused)}

    @property
    def with_output(self) -> list[str]:
        """Return the names of the optimizers for which the step has given an output that was counted."""
        return [name for name, counters in self.counters.items() if counters.scores]

    def metrics(self, trainer: pl.Trainer, device: torch.device) -> dict[str, float]:
        """Return the means of a finished pass on all ranks, among them `loss`, the sum of the losses of all optimizers.

        device: on which the ranks exchange tensors.
        """
        metrics: dict[str, float] = {}
        for counters in self.counters.values():
            totals = counters.totals()
            if trainer.world_size > 1:
                totals = trainer.strategy.reduce(totals.to(device), reduce_op="sum").cpu()
            metrics |= counters.means(totals)
        loss = sum(metrics[f"{counters.prefix}loss"] for counters in self.counters.values())
        if math.isfinite(loss):  # otherwise the run ends
            for name in self.with_output:
                metrics |= self.counters[name].metrics.values()
        return {"loss": loss, **metrics}

    def state(self, module: pl.LightningModule, val: dict[str, float]) -> SavedPass:
        """Return everything that all ranks have counted, which the LightningModule gathers. val: as in SavedPass."""

        def gather(value: Tensor) -> Tensor:
            """Return the values of all ranks, stacked (ranks, …), on the CPU."""
            value = value.to(module.device)
            gathered = module.all_gather(value) if module.trainer.world_size > 1 else value[None]
            assert isinstance(gathered, Tensor)
            return gathered.cpu()

        state: SavedPass = {"seconds": time.perf_counter() - self.started, "paused": self.paused, "val": val}
        states = {name: counters.state(gather) for name, counters in self.counters.items()}
        # A single optimizer has the layout of earlier versions.
        return {**state, **states[SINGLE]} if SINGLE in states else {**state, "optimizers": states}  # type: ignore[typeddict-unknown-key]

    def load(self, saved: SavedPass, rank: int, world: int, device: torch.device) -> None:
        """Take up, on `device`, what the process of `rank` had counted. world: the number of processes.

        Raises RequestError if the epoch was begun with another number of processes, or with other metrics.
        """
        self.started -= saved["seconds"]
        self.paused = saved["paused"]
        for name, counters in self.counters.items():
            counters.load(saved["optimizers"][name] if "optimizers" in saved else saved, rank, world, device)  # type: ignore[arg-type]
