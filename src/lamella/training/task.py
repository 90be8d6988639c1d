"""The one LightningModule: network and loss, the optimizer, and the metrics of each epoch."""

import math
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lamella import seeds
from lamella.data.chunk import Batch, Chunk
from lamella.errors import RequestError
from lamella.seeds import batch_seeds
from lamella.training.chunked_steps import run_chunk
from lamella.training.losses import class_weights, is_weighted, loss_targets
from lamella.training.metrics import Counters, metric_sum
from lamella.training.scheduler import Schedule

STAGES = {"val": "validation", "test": "test"}
SMALLER = "try a smaller optimizer.lr, or trainer.gradient_clip_val=1"


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite."""


class Task(pl.LightningModule):
    """Trains `network` to a small `loss`, and counts `metric` ("accuracy" or "mae") beside it.

    optimizer: called with the parameters that are trained. Inputs (B, …) and targets (B,) as class indices, or
    floats of the output's shape. Class indices are turned into one-hot floats for a loss that needs them. What is
    random in a batch, dropout say, depends on seed, process, epoch and batch alone, so no random state has to be saved.
    Raises NonFiniteLoss, with the step and the learning rate, at once on the CPU and elsewhere at the end of the
    epoch, since looking at the loss in the step would make it wait for the device.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        schedule: Schedule,
        metric: str = "accuracy",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.seed = seed
        self.network, self.loss, self.metric = network, loss, metric
        self.make_optimizer, self.schedule = optimizer, schedule
        self._train, self._eval = Counters(), Counters()
        self._val: dict[str, float] = {}
        self._rate: float | None = None  # the schedule's, while the warm-up's stands in the optimizer
        self._weighted = is_weighted(loss)
        self.run_chunk: Callable[[Task, Chunk], None] = run_chunk

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the running hook here, forty times a step, and nn.Module would look for parameters each time.
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.network(inputs)
        return output

    def configure_optimizers(self) -> Any:
        trainer, interval = self.trainer, self.schedule.interval
        optimizer = self.make_optimizer([p for p in self.network.parameters() if p.requires_grad])
        steps = trainer.estimated_stepping_batches
        if interval == "epoch":
            steps = steps / -(-trainer.num_training_batches // trainer.accumulate_grad_batches)
        scheduler = self.schedule.make(optimizer, math.ceil(steps) if math.isfinite(steps) else None)
        if isinstance(scheduler, ReduceLROnPlateau) and not trainer.enable_validation:
            raise RequestError(
                "scheduler: plateau follows val/loss, and the trainer's limits leave no validation", "trainer"
            )
        # Not strict: an epoch that is not validated leaves a plateau as it is.
        return [optimizer], [{"scheduler": scheduler, "interval": interval, "monitor": "val/loss", "strict": False}]

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        # Beside the schedule, not chained to it: most of torch's schedulers compute a rate from the one before.
        factor = self.schedule.warmup(self.global_step)
        if factor == 1.0:
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
            return
        rates = [group["lr"] for group in optimizer.param_groups]
        self._rate = rates[0]
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * factor
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self._rate = None

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if not isinstance(scheduler, ReduceLROnPlateau) or self._val:  # no news from an epoch without validation
            super().lr_scheduler_step(scheduler, metric)

    def on_train_epoch_start(self) -> None:
        self._train, self._val = Counters(self.global_step), {}

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if isinstance(batch, Chunk):
            self.run_chunk(self, batch)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        # For a chunk, batch_idx is that of its first batch.
        if self.trainer.fit_loop.batch_idx % self.trainer.accumulate_grad_batches == 0:
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.reseed()
        output = self.network(batch[0])
        compared = loss_targets(self.loss, output, batch[1])
        return self.counted(self.loss(output, compared), output, batch[1], compared)

    def reseed(self) -> None:
        """Seed what is random in the training batch that comes."""
        count, batch_idx = int(self.trainer.num_training_batches), self.trainer.fit_loop.batch_idx
        seeds.reseed(
            batch_seeds(self.seed, self.trainer.global_rank, self.trainer.current_epoch, count)[batch_idx], self.device
        )

    def counted(self, loss: Tensor, output: Tensor, targets: Tensor, compared: Tensor) -> Tensor:
        """Count a training batch; returns the loss of which the gradient is taken. compared: what the loss reads."""
        self._count(loss, output, targets, compared, self._train)
        rate = self.trainer.optimizers[0].param_groups[0]["lr"] if self._rate is None else self._rate
        self._train.rates.append(rate)
        # Alone: with several processes one would leave the others waiting for its gradients.
        if loss.device.type == "cpu" and self.trainer.world_size == 1 and not math.isfinite(loss.item()):
            raise NonFiniteLoss(self._not_finite(self.trainer.fit_loop.batch_idx))
        if self._weighted and self.trainer.world_size > 1:
            # The mean of the ranks' means is not the batch's where their samples weigh differently.
            own = self._train.weights[-1]
            total = self.trainer.strategy.reduce(own.clone(), reduce_op="sum")
            loss = loss * own * self.trainer.world_size / total
        return loss

    def on_train_epoch_end(self) -> None:
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
        self._train = Counters()

    def on_validation_model_zero_grad(self) -> None:
        """The gradients of the last step are kept: their norm and histograms are read after the validation."""

    def on_validation_start(self) -> None:
        self._check_training()  # first, because it can name the step
        self._eval = Counters()

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._evaluated(batch)

    def on_validation_epoch_end(self) -> None:
        self._val = self._finite("val", self._metrics("val", self._eval))
        # For callbacks that look here already; the loggers get them with the training's, in one line an epoch.
        self._log(self._val, logger=False)
        self._train.paused += time.perf_counter() - self._eval.started

    def on_test_start(self) -> None:
        self._eval = Counters()
        seeds.reseed(self.seed, self.device)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._evaluated(batch)

    def on_test_epoch_end(self) -> None:
        self._log(self._finite("test", self._metrics("test", self._eval)), epoch=self.current_epoch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what has been counted in an epoch that is not over, on all ranks."""
        if not self._train.losses:
            return
        counters = self._train.state()
        tensors: Any = {name: value.to(self.device) for name, value in counters.items() if isinstance(value, Tensor)}
        if self.trainer.world_size > 1:
            tensors = self.all_gather(tensors)
        else:
            tensors = {name: value[None] for name, value in tensors.items()}
        checkpoint["counters"] = counters | {name: value.cpu() for name, value in tensors.items()} | {"val": self._val}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        counters = dict(checkpoint.get("counters", {}))
        if counters:
            self._val = counters.pop("val")
            rank, world = self.trainer.global_rank, self.trainer.world_size
            if len(counters["losses"]) != world:
                raise RequestError(
                    f"trainer.devices: the run is in the middle of an epoch on {len(counters['losses'])} processes, "
                    f"and cannot go on with {world}",
                    "trainer.devices",
                )
            own = {name: value[rank] if isinstance(value, Tensor) else value for name, value in counters.items()}
            self._train = Counters.load(own, self.device)

    def _log(self, metrics: dict[str, float], epoch: int | None = None, logger: bool | None = None) -> None:
        """Log metrics that all ranks agree on, at `epoch`, the number of epochs that are over."""
        if epoch is not None:
            metrics = metrics | {"step": float(epoch)}  # the name by which loggers take their axis
        # Lightning would round plain floats to float32.
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        tensors = {name: torch.tensor(value, dtype=dtype) for name, value in metrics.items()}
        self.log_dict(tensors, sync_dist=True, logger=logger)

    def _evaluated(self, batch: Batch) -> Tensor:
        """The network's output, which is counted."""
        inputs, targets = batch
        output: Tensor = self.network(inputs)
        compared = loss_targets(self.loss, output, targets)
        self._count(self.loss(output, compared), output, targets, compared, self._eval)
        return output

    def _count(self, loss: Tensor, output: Tensor, targets: Tensor, compared: Tensor, counters: "Counters") -> None:
        with torch.no_grad():
            score = metric_sum(self.metric, output, targets, compared)
            if self._weighted:
                given: Any = self.loss
                counters.weights.append(class_weights(given, output.shape[1], self.device)[targets].sum())
        counters.losses.append(loss.detach())
        counters.scores.append(score)
        counters.samples.append(len(targets))
        counters.judged += targets.numel()

    def _metrics(self, stage: str, counters: "Counters") -> dict[str, float]:
        """Means over the pass that has just ended, on all ranks."""
        totals = counters.totals()
        if self.trainer.world_size > 1:
            totals = self.trainer.strategy.reduce(totals.to(self.device), reduce_op="sum").cpu()
        loss, weight, score, judged = totals.tolist()
        return {f"{stage}/loss": loss / weight, f"{stage}/{self.metric}": score / judged}

    def _finite(self, stage: str, metrics: dict[str, float]) -> dict[str, float]:
        loss = metrics[f"{stage}/loss"]
        if not math.isfinite(loss):
            raise NonFiniteLoss(f"the loss of the {STAGES[stage]} is {loss} after step {self.global_step}; {SMALLER}")
        return metrics

    def _check_training(self) -> None:
        """Raise NonFiniteLoss for the first training loss of the epoch, on any rank, that is not finite."""
        if not self._train.losses:
            return
        finite = torch.stack(self._train.losses).isfinite()
        first = torch.where(finite.all(), len(finite), (~finite).int().argmax())
        if self.trainer.world_size > 1:
            first = self.trainer.strategy.reduce(first, reduce_op="min")
        if int(first) < len(finite):
            raise NonFiniteLoss(self._not_finite(int(first)))

    def _not_finite(self, batch_idx: int) -> str:
        counters = self._train
        step = counters.first_step + batch_idx // self.trainer.accumulate_grad_batches
        rate = counters.rates[batch_idx] * self.schedule.warmup(step)
        # Another rank's loss may be the one that is not finite.
        losses = [float(loss) for loss in counters.losses[batch_idx:] if not loss.isfinite()]
        return (
            f"the loss is {losses[0] if losses else math.nan} at step {step + 1} (epoch {self.current_epoch + 1}), "
            f"with learning rate {rate:g}; {SMALLER}"
        )
