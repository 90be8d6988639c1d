"""Train and evaluate a network, and log the metrics of each epoch: the LightningModule of Lamella."""

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
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
from lamella.lightning_internals import HOOK_NAME, batch_index
from lamella.runs.checkpoints import TRAINED, StateDict
from lamella.training.chunked_steps import run_chunk
from lamella.training.non_finite import NonFiniteLoss, check_finite, smaller
from lamella.training.objective import Objective
from lamella.training.optimizer_kernels import DirectOptimizer
from lamella.training.optimizers import SINGLE, OptimizerPlan, configure, take_turns
from lamella.training.parameter_groups import keep_proportions, logged_rates, rate_of
from lamella.training.passes import Pass
from lamella.training.results import check_outputs, check_results, check_step
from lamella.training.scheduler import Schedule, scaled_rates

AnyOptimizer = Optimizer | LightningOptimizer | DirectOptimizer


class Task(pl.LightningModule):
    """Trains a network to minimize a loss, and counts metrics beside the loss.

    A subclass may define another `step`. Its constructor takes the keys of the config group `task`; the network is
    there after `attach`. What is random in a batch, for example dropout, depends on the seed, the rank, the epoch and
    the number of the batch alone, so that no random state has to be saved. Attributes for `step`: `network`; `loss`,
    the loss of the config; `objective`, which calls it with the output and the targets in the form in which it takes
    them. Several optimizers take turns in each batch, by Lightning's manual optimization.

    Raises NonFiniteLoss, which names the step and the learning rate: on the CPU in the step itself, elsewhere at the
    end of the epoch, because reading the loss in each step would make the step wait for the device. A test does not.
    """

    def __init__(self) -> None:
        super().__init__()
        self._val: dict[str, float] = {}
        self._scheduled_rate: float | None = None  # set while an optimizer has the learning rate of the warm-up
        self.schedule_lengths: list[int | None] = []  # how many steps each scheduler takes in the run, once known
        self.run_chunk: Callable[[Task, Chunk], None] = run_chunk
        self.compiled_step: Callable[[Batch], Mapping[str, Tensor] | None] = lambda batch: None  # as `step`
        self.after_step: Callable[[], None] | None = None  # called after each optimizer step

    @property
    def has_own_step(self) -> bool:
        """Return True if a subclass defines another step."""
        return type(self).step is not Task.step

    def attach(
        self,
        network: nn.Module,
        objective: Objective,
        optimizers: Mapping[str, OptimizerPlan],
        schedule: Schedule,
        seed: int = 0,
        metrics: Mapping[str, Metric] | None = None,
    ) -> None:
        """Set what is trained and how. optimizers: by name. Raises RequestError if `step` does not suit them."""
        self.network, self.objective, self.seed = network, objective, seed
        self.loss = objective.loss  # registered, so that its class weights are moved to the device of the network
        self.optimizer_plans, self.schedule, self.metrics = dict(optimizers), schedule, dict(metrics or {})
        self.automatic_optimization = SINGLE in self.optimizer_plans
        check_step(self.step, type(self), [name for name in self.optimizer_plans if name != SINGLE])
        self._train, self._eval = self._pass(), self._pass()

    def step(self, batch: Batch) -> Mapping[str, Tensor]:
        """Return the loss of a batch, a scalar, and what else is counted.

        batch: the inputs (B, …), or a dict of named inputs, and the targets (B, …). The key `output` holds the output
        of the network (B, …), from which accuracy and the metrics of the config are counted. Each further key holds a
        scalar, the mean of the batch, which is logged for each epoch. Where the config has several optimizers, the step
        takes a second argument, `optimizer`, and is called with the name of each one whose turn it is.
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
        """Return the output of the network, for callbacks that call the task as Lightning's docs do."""
        return self.network(inputs)  # type: ignore[no-any-return]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizers of all parameters that need gradients, and their schedulers, for Lightning."""
        configured, self.schedule_lengths = configure(self.network, self.optimizer_plans, self.schedule, self.trainer)
        return configured

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: AnyOptimizer, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Take an optimizer step, with the learning rate of the warm-up while the warm-up lasts."""
        assert optimizer_closure is not None
        self._take_step(optimizer, optimizer_closure, self.global_step)

    def _take_step(self, optimizer: AnyOptimizer, closure: Callable[[], Any], number: int) -> None:
        """Take step `number` of an optimizer, counted from 0. closure: computes the gradients."""
        factor = self.schedule.warmup(number)
        self._scheduled_rate = None if factor == 1.0 else rate_of(optimizer.param_groups)
        with nullcontext() if factor == 1.0 else scaled_rates(optimizer.param_groups, factor):
            optimizer.step(closure=closure)
        self._scheduled_rate = None
        if self.after_step:
            self.after_step()

    def lr_scheduler_step(self, scheduler: LRSchedulerTypeUnion, metric: float | Tensor | None) -> None:
        """Take a step of the scheduler, but of a plateau scheduler only after an epoch with validation."""
        if not isinstance(scheduler, ReduceLROnPlateau) or self._val:
            super().lr_scheduler_step(scheduler, metric)
            keep_proportions(scheduler.optimizer)

    def on_train_epoch_start(self) -> None:
        self._train, self._val, batches = self._pass(), {}, self.trainer.num_training_batches
        for name, plan in self.optimizer_plans.items():
            first = self.global_step if name == SINGLE else self.current_epoch * plan.steps(int(batches))
            self._train.counters[name].first_step = first

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
        if self.automatic_optimization:
            return self.counted(self.compiled_step(batch) or self._step(batch), batch[1])
        return take_turns(self.trainer, self.optimizer_plans, self.schedule, partial(self._turn, batch))

    def _turn(self, batch: Batch, name: str, optimizer: LightningOptimizer) -> Tensor:
        """Train the parameters of one of several optimizers with a batch, and return its loss, without a graph."""

        def compute_gradients() -> Tensor:
            optimizer.zero_grad()
            loss = self.counted(self._step(batch, name), batch[1], name)
            self.manual_backward(loss)
            return loss

        with self.toggled_optimizer(optimizer):
            self._take_step(optimizer, compute_gradients, self._step_number(name))
        return self._train.counters[name].losses[-1]

    def leave_out(self, seconds: float) -> None:
        """Leave seconds of the running epoch, in which nothing is trained, out of its samples per second."""
        self._train.paused += seconds

    def reseed(self) -> None:
        """Seed the random generators for the training batch that is about to be computed."""
        seeds.reseed(self.batch_seed(), self.device)

    def batch_seed(self) -> int:
        """Return the seed of the training batch that is about to be computed."""
        number = batch_index(self.trainer)
        epoch, count = self.current_epoch, 1 << number.bit_length()  # the number of batches of a stream is not known
        return seeds.batch_seeds(self.seed, self.trainer.global_rank, epoch, count)[number]

    def counted(
        self, results: Mapping[str, Tensor], targets: Tensor, name: str = SINGLE, score: Tensor | None = None
    ) -> Tensor:
        """Count a training batch, and return the loss from which the gradients are computed.

        results: as `step` returns them for the optimizer of this name. targets, score: as `Counters.count` takes them.
        """
        loss, counters = results["loss"], self._train.counters[name]
        counters.count(results, targets, score)
        optimizer, rate = self.trainer.optimizers[[*self.optimizer_plans].index(name)], self._scheduled_rate
        counters.rates.append(rate_of(optimizer.param_groups) if rate is None else rate)
        # Only with a single process: another rank would wait for ever for the gradients of this one.
        if loss.device.type == "cpu" and self.trainer.world_size == 1 and not math.isfinite(loss.item()):
            turn = batch_index(self.trainer) // self.optimizer_plans[name].every
            raise NonFiniteLoss.at(turn, name, counters, self.trainer, self.schedule)
        if counters.weights and self.trainer.world_size > 1:
            # DDP averages the gradients of the ranks, but each rank's samples have another total weight.
            weight = counters.weights[-1]
            total = self.trainer.strategy.reduce(weight.clone(), reduce_op="sum")
            loss = loss * weight * self.trainer.world_size / total
        return loss

    def _step_number(self, name: str) -> int:
        """Return the number of the step of an optimizer in or before the running batch, counted from 0."""
        turn = batch_index(self.trainer) // self.optimizer_plans[name].every
        return self._train.counters[name].first_step + turn // self.trainer.accumulate_grad_batches

    def on_train_epoch_end(self) -> None:
        """Log the metrics of the epoch, with those of its validation, the learning rates and the time."""
        train, times = self._train, self._train.times(self.trainer.world_size)
        check_finite(train, self.trainer, self.schedule)
        metrics = self._metrics("train", train) | self._val
        for (name, counters), optimizer in zip(train.counters.items(), self.trainer.optimizers, strict=True):
            factor = self.schedule.warmup(self._step_number(name))
            metrics |= logged_rates(optimizer, counters.rates[-1] * factor, name)
        gradients = [value.grad for value in self.network.parameters() if value.grad is not None]
        metrics["grad_norm"] = float(get_total_norm(gradients))  # of the epoch's last step
        self._log(metrics | times, epoch=self.current_epoch + 1)
        self._train = self._pass()

    def on_validation_model_zero_grad(self) -> None:
        """Keep the gradients of the last step, because their norm and histograms are read after the validation."""

    def on_validation_start(self) -> None:
        # Before the validation, whose error could not name the step.
        check_finite(self._train, self.trainer, self.schedule)
        self._eval = self._pass()
        if self.has_own_step:  # which may draw random numbers in evaluation too
            seeds.reseed(self.seed, self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Count a batch for each optimizer, and return the output of the network if the step gives it."""
        output = None
        for name, counters in self._eval.counters.items():
            counters.count(results := self._step(batch, name), batch[1])
            output = results.get("output", output)
        return output

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Give the metrics of the validation to callbacks."""
        self._val = self._metrics("val", self._eval)
        if not math.isfinite(loss := self._val["val/loss"]):
            raise NonFiniteLoss(
                f"the loss of the validation is {loss} after step {self.global_step}; {smaller(self.optimizer_plans)}"
            )
        # The loggers get these metrics together with the training's, as one line for each epoch.
        self._log(self._val, logger=False)
        self.leave_out(self._eval.times(1)["seconds"])

    def on_test_start(self) -> None:
        self._eval = self._pass()
        seeds.reseed(self.seed, self.device)

    def on_test_epoch_end(self) -> None:
        self._log(self._metrics("test", self._eval), epoch=self.current_epoch)

    def on_save_checkpoint(self, checkpoint: StateDict) -> None:
        """Save what all ranks have counted in an unfinished epoch, under the key `counters`."""
        if any(counters.losses for counters in self._train.counters.values()):
            checkpoint["counters"] = self._train.state(self, self._val)

    def on_load_checkpoint(self, checkpoint: StateDict) -> None:
        """Take up what this rank had counted in an unfinished epoch.

        Raises RequestError if the epoch was begun with another number of processes, or with other metrics.
        """
        if not self.trainer.training:  # WeightAveraging would test these weights and not those in `state_dict`
            checkpoint.pop(TRAINED, None)
        if saved := checkpoint.get("counters"):
            self._val, self._train = saved["val"], self._pass()
            self._train.load(saved, self.trainer.global_rank, self.trainer.world_size, self.device)

    def _log(self, metrics: Mapping[str, float], epoch: int | None = None, logger: bool | None = None) -> None:
        """Log metrics that are equal on all ranks. epoch: the number of finished epochs, the x axis of the loggers."""
        if epoch is not None:
            metrics = {**metrics, "step": float(epoch)}  # Lightning takes the x axis from this name
        # As tensors, because Lightning would round plain floats to float32.
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        tensors = {name: torch.tensor(value, dtype=dtype) for name, value in metrics.items()}
        self.log_dict(tensors, sync_dist=True, logger=logger)

    def _step(self, batch: Batch, name: str = SINGLE) -> Mapping[str, Tensor]:
        """Return the results of a step. Raises RequestError for those of a project's own step that are none."""
        step: Callable[..., Mapping[str, Tensor]] = self.step
        results = step(batch) if name == SINGLE else step(batch, optimizer=name)
        if self.has_own_step:
            check_results(results, type(self), self.objective, self.metrics)
        return results

    def _pass(self) -> Pass:
        """Return what counts a pass over the data, without any counts."""
        return Pass(self.optimizer_plans, self.objective, self.metrics)

    def _metrics(self, stage: str, counted: Pass) -> dict[str, float]:
        """Return the mean losses and the metrics of a finished pass over the data on all ranks."""
        check_outputs(counted.with_output, type(self), self.metrics)
        return {f"{stage}/{name}": value for name, value in counted.metrics(self.trainer, self.device).items()}
