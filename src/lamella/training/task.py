"""Train and evaluate a network, and log the metrics of each epoch: the one LightningModule of Lamella."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.utilities.types import LRSchedulerTypeUnion, OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import Metric

from lamella import seeds
from lamella.data.chunk import Batch, Chunk
from lamella.errors import RequestError
from lamella.lightning_internals import HOOK_NAME, batch_index
from lamella.runs.checkpoints import TRAINED, StateDict
from lamella.training.chunked_steps import run_chunk
from lamella.training.epoch_metrics import EpochMetrics
from lamella.training.metrics import Counters, SavedCounters
from lamella.training.non_finite import SMALLER, NonFiniteLoss
from lamella.training.objective import Objective
from lamella.training.optimizer_kernels import DirectOptimizer
from lamella.training.results import check_results
from lamella.training.scheduler import Schedule, check_length, scaled_rates


class Task(pl.LightningModule):
    """Trains a network to minimize a loss, and counts metrics beside the loss.

    A subclass may define another `step`. Its constructor takes the keys of the config group `task`; the network is
    there after `attach`. What is random in a batch, for example dropout, depends on the seed, the rank, the epoch and
    the number of the batch alone, so that no random state has to be saved. Attributes for `step`: `network`; `loss`,
    the loss of the config; `objective`, which calls it with the output and the targets in the form in which it takes
    them.

    Raises NonFiniteLoss, which names the step and the learning rate: on the CPU in the step itself, elsewhere at the
    end of the epoch, because reading the loss in each step would make the step wait for the device. A test does not.
    """

    def __init__(self) -> None:
        super().__init__()
        self._val: dict[str, float] = {}
        self._scheduled_rate: float | None = None  # set while the optimizer has the learning rate of the warm-up
        self.schedule_length: int | None = None  # how many steps the scheduler takes in the run, once that is known
        self.run_chunk: Callable[[Task, Chunk], None] = run_chunk
        self.after_step: Callable[[], None] | None = None  # called after each optimizer step

    @property
    def has_own_step(self) -> bool:
        """Return True if a subclass defines another step."""
        return type(self).step is not Task.step

    def attach(
        self,
        network: nn.Module,
        objective: Objective,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        schedule: Schedule,
        seed: int = 0,
        metrics: Mapping[str, Metric] | None = None,
    ) -> None:
        """Set what is trained and how. optimizer: called with the parameters that are trained."""
        self.network, self.objective, self.seed = network, objective, seed
        self.loss = objective.loss  # registered, so that its class weights are moved to the device of the network
        self.make_optimizer, self.schedule, self.metrics = optimizer, schedule, dict(metrics or {})
        self._train, self._eval = self._counters(), self._counters()

    def step(self, batch: Batch) -> Mapping[str, Tensor]:
        """Return the loss of a batch, a scalar, and what else is counted.

        batch: the inputs (B, …), or a dict of named inputs, and the targets (B, …). The key `output` holds the output
        of the network (B, …), from which accuracy and the metrics of the config are counted. Each further key holds a
        scalar, the mean of the batch, which is logged for each epoch.
        """
        output = self.network(batch[0])
        return {"loss": self.objective(output, batch[1]), "output": output}

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning sets this attribute forty times a step, and nn.Module would search its parameters each time.
        if name == HOOK_NAME:
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the output of the network, for callbacks that call the task as Lightning's documentation does."""
        return self.network(inputs)  # type: ignore[no-any-return]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer of all parameters that need gradients, and its scheduler, for Lightning."""
        trainer, interval = self.trainer, self.schedule.interval
        optimizer = self.make_optimizer([p for p in self.network.parameters() if p.requires_grad])
        steps = trainer.estimated_stepping_batches
        if interval == "epoch":
            steps = steps / -(-trainer.num_training_batches // trainer.accumulate_grad_batches)
        self.schedule_length = math.ceil(steps) if math.isfinite(steps) else None
        scheduler = self.schedule.make(optimizer, self.schedule_length)
        check_length(scheduler, self.schedule_length, interval)
        if isinstance(scheduler, ReduceLROnPlateau) and not trainer.enable_validation:
            raise RequestError(
                "scheduler: plateau follows val/loss, and the trainer's limits leave no validation", "trainer"
            )
        return {
            "optimizer": optimizer,
            # Not strict: a plateau scheduler takes no step after an epoch without validation.
            "lr_scheduler": {"scheduler": scheduler, "interval": interval, "monitor": "val/loss", "strict": False},
        }

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer | DirectOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Take an optimizer step, with the learning rate of the warm-up while the warm-up lasts."""
        assert optimizer_closure is not None
        factor = self.schedule.warmup(self.global_step)
        self._scheduled_rate = None if factor == 1.0 else optimizer.param_groups[0]["lr"]
        with nullcontext() if factor == 1.0 else scaled_rates(optimizer.param_groups, factor):
            optimizer.step(closure=optimizer_closure)
        self._scheduled_rate = None
        if self.after_step:
            self.after_step()

    def lr_scheduler_step(self, scheduler: LRSchedulerTypeUnion, metric: float | Tensor | None) -> None:
        """Take a step of the scheduler, but of a plateau scheduler only after an epoch with validation."""
        if not isinstance(scheduler, ReduceLROnPlateau) or self._val:
            super().lr_scheduler_step(scheduler, metric)

    def on_train_epoch_start(self) -> None:
        self._train, self._val = self._counters(self.global_step), {}

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Train all batches of a chunk but the last one, which Lightning trains after this hook."""
        if isinstance(batch, Chunk):
            self.run_chunk(self, batch)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Clear the gradients if the batch is the first one of an optimizer step."""
        # Not by `batch_idx`, which for a chunk is the number of its first batch.
        if batch_index(self.trainer) % self.trainer.accumulate_grad_batches == 0:
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.reseed()
        return self.counted(self._step(batch), batch[1])

    def reseed(self) -> None:
        """Seed the random generators for the training batch that is about to be computed."""
        seeds.reseed(self.batch_seed(), self.device)

    def batch_seed(self) -> int:
        """Return the seed of the training batch that is about to be computed."""
        trainer, count = self.trainer, int(self.trainer.num_training_batches)
        return seeds.batch_seeds(self.seed, trainer.global_rank, trainer.current_epoch, count)[batch_index(trainer)]

    def counted(self, results: Mapping[str, Tensor], targets: Tensor) -> Tensor:
        """Count a training batch, and return the loss from which the gradients are computed.

        results: as `step` returns them. targets: as the data gives them.
        """
        loss = results["loss"]
        self._train.count(results, targets)
        rate = self._scheduled_rate
        self._train.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"] if rate is None else rate)
        # Only with a single process: another rank would wait for ever for the gradients of this one.
        if loss.device.type == "cpu" and self.trainer.world_size == 1 and not math.isfinite(loss.item()):
            raise self._not_finite(batch_index(self.trainer))
        if self.objective.weighted and self.trainer.world_size > 1:
            # DDP averages the gradients of the ranks, but each rank's samples have another total weight.
            weight = self._train.weights[-1]
            total = self.trainer.strategy.reduce(weight.clone(), reduce_op="sum")
            loss = loss * weight * self.trainer.world_size / total
        return loss

    def on_train_epoch_end(self) -> None:
        """Log the metrics of the epoch, with those of its validation, the learning rate and the time."""
        counters, now = self._train, time.perf_counter()
        self._check_training()
        metrics = self._metrics("train", counters)
        seconds = now - counters.started
        metrics |= self._val
        metrics["lr"] = counters.rates[-1] * self.schedule.warmup(self.global_step - 1)
        gradients = [value.grad for value in self.network.parameters() if value.grad is not None]
        metrics["grad_norm"] = float(get_total_norm(gradients))  # of the epoch's last step
        metrics["seconds"] = seconds
        metrics["samples_per_second"] = sum(counters.samples) * self.trainer.world_size / (seconds - counters.paused)
        self._log(metrics, epoch=self.current_epoch + 1)
        self._train = self._counters()

    def on_validation_model_zero_grad(self) -> None:
        """Keep the gradients of the last step, because their norm and histograms are read after the validation."""

    def on_validation_start(self) -> None:
        self._check_training()  # before the validation, whose error could not name the step
        self._eval = self._counters()
        if self.has_own_step:  # which may draw random numbers in evaluation too
            seeds.reseed(self.seed, self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Count a batch, and return the output of the network if the step gives it."""
        results = self._step(batch)
        self._eval.count(results, batch[1])
        return results.get("output")

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Give the metrics of the validation to callbacks."""
        self._val = self._metrics("val", self._eval)
        if not math.isfinite(loss := self._val["val/loss"]):
            raise NonFiniteLoss(f"the loss of the validation is {loss} after step {self.global_step}; {SMALLER}")
        # The loggers get these metrics together with the training's, as one line for each epoch.
        self._log(self._val, logger=False)
        self._train.paused += time.perf_counter() - self._eval.started

    def on_test_start(self) -> None:
        self._eval = self._counters()
        seeds.reseed(self.seed, self.device)

    def on_test_epoch_end(self) -> None:
        self._log(self._metrics("test", self._eval), epoch=self.current_epoch)

    def on_save_checkpoint(self, checkpoint: StateDict) -> None:
        """Save what all ranks have counted in an unfinished epoch, under the key `counters`."""
        if self._train.losses:
            checkpoint["counters"] = {**self._train.state(self._gather), "val": self._val}

    def _gather(self, value: Tensor) -> Tensor:
        """Return the values of all ranks, stacked (ranks, …), on the CPU."""
        value = value.to(self.device)
        gathered = self.all_gather(value) if self.trainer.world_size > 1 else value[None]
        assert isinstance(gathered, Tensor)
        return gathered.cpu()

    def on_load_checkpoint(self, checkpoint: StateDict) -> None:
        """Take up what this rank had counted in an unfinished epoch.

        Raises RequestError if the epoch was begun with another number of processes, or with other metrics.
        """
        if not self.trainer.training:  # WeightAveraging would test these weights and not those in `state_dict`
            checkpoint.pop(TRAINED, None)
        saved: SavedCounters | None = checkpoint.get("counters")
        if saved:
            self._val, self._train = saved["val"], self._counters()
            self._train.load(saved, self.trainer.global_rank, self.trainer.world_size, self.device)

    def _log(self, metrics: Mapping[str, float], epoch: int | None = None, logger: bool | None = None) -> None:
        """Log metrics that are equal on all ranks. epoch: the number of finished epochs, the x axis of the loggers."""
        if epoch is not None:
            metrics = {**metrics, "step": float(epoch)}  # Lightning takes the x axis from this name
        # As tensors, because Lightning would round plain floats to float32.
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        tensors = {name: torch.tensor(value, dtype=dtype) for name, value in metrics.items()}
        self.log_dict(tensors, sync_dist=True, logger=logger)

    def _step(self, batch: Batch) -> Mapping[str, Tensor]:
        """Return the results of a step. Raises RequestError for those of a project's own step that are none."""
        results = self.step(batch)
        if self.has_own_step:
            check_results(results, f"{type(self).__module__}.{type(self).__qualname__}", self.objective, self.metrics)
        return results

    def _counters(self, first_step: int = 0) -> Counters:
        """Return empty counters for a pass over the data. first_step: the number of optimizer steps before it."""
        return Counters(EpochMetrics(self.objective, self.metrics), first_step)

    def _metrics(self, stage: str, counters: Counters) -> dict[str, float]:
        """Return the mean loss and the metrics of a finished pass over the data on all ranks."""
        totals = counters.totals()
        if self.trainer.world_size > 1:
            totals = self.trainer.strategy.reduce(totals.to(self.device), reduce_op="sum").cpu()
        metrics = counters.means(totals)
        if math.isfinite(metrics["loss"]):  # otherwise the run ends
            metrics |= counters.metrics.values()
        return {f"{stage}/{name}": value for name, value in metrics.items()}

    def _check_training(self) -> None:
        """Raise NonFiniteLoss for the first training loss of the epoch that is not finite on some rank."""
        if not self._train.losses:
            return
        finite = torch.stack(self._train.losses).isfinite()
        first = torch.where(finite.all(), len(finite), (~finite).int().argmax())
        if self.trainer.world_size > 1:
            first = self.trainer.strategy.reduce(first, reduce_op="min")
        if int(first) < len(finite):
            raise self._not_finite(int(first))

    def _not_finite(self, batch: int) -> NonFiniteLoss:
        """Return the error for a training batch, by its number in the epoch."""
        count, epoch = self.trainer.accumulate_grad_batches, self.current_epoch
        return NonFiniteLoss.at(batch, self._train, epoch, count, self.schedule)
