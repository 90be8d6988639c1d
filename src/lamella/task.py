"""The one LightningModule: network and loss, the optimizer, and the metrics of each epoch."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR, LRScheduler, ReduceLROnPlateau

# The losses that read class indices; every other one reads targets of the output's shape.
INDEXED = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss)
# The losses whose output is a logit for each of several labels.
LABELS = (nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss)

DIRECTION = {"loss": "min", "accuracy": "max", "mae": "min"}


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite."""


@dataclass(frozen=True)
class Schedule:
    """How the learning rate moves.

    make: called as make(optimizer, length), where length is the run's number of optimizer steps or, with interval
    "epoch", of epochs. warmup_steps: optimizer steps over which the rate first rises linearly from nearly nothing.
    """

    make: Callable[[Optimizer, int], LRScheduler | ReduceLROnPlateau]
    interval: str = "epoch"
    warmup_steps: int = 0


def metric_for(loss: nn.Module, targets: Tensor) -> str:
    """What is counted beside the loss: accuracy, or for targets that are numbers the mean absolute error."""
    return "accuracy" if targets.dtype == torch.int64 or isinstance(loss, LABELS) else "mae"


class Task(pl.LightningModule):
    """Trains `network` to a small `loss`, and counts `metric` ("accuracy" or "mae") beside it.

    optimizer: called with the parameters that are trained. Inputs (B, …) and targets (B,) as class indices, or
    floats of the output's shape. Class indices are turned into one-hot floats for a loss that needs them.
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
    ) -> None:
        super().__init__()
        self.network, self.loss, self.metric = network, loss, metric
        self.make_optimizer, self.schedule = optimizer, schedule
        self._train, self._eval = _Counters(), _Counters()
        self._val: dict[str, float] = {}

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.network(inputs)
        return output

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer([p for p in self.network.parameters() if p.requires_grad])
        steps, epochs = int(self.trainer.estimated_stepping_batches), self.trainer.max_epochs or 1
        interval = self.schedule.interval
        scheduler = self.schedule.make(optimizer, steps if interval == "step" else epochs)
        schedulers: list[dict[str, Any]] = [{"scheduler": scheduler, "interval": interval, "monitor": "val/loss"}]
        if self.schedule.warmup_steps:
            warmup = LinearLR(optimizer, 1e-3, total_iters=self.schedule.warmup_steps)
            schedulers.append({"scheduler": warmup, "interval": "step"})
        return [optimizer], schedulers

    def on_train_epoch_start(self) -> None:
        self._train, self._val = _Counters(self.global_step), {}

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = self._count(batch, self._train)
        self._train.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        if loss.device.type == "cpu" and not math.isfinite(loss.item()):
            raise NonFiniteLoss(self._not_finite(batch_idx))
        return loss

    def on_train_epoch_end(self) -> None:
        counters, now = self._train, time.perf_counter()
        metrics = self._metrics("train", counters)
        if not math.isfinite(metrics["train/loss"]):
            finite = torch.stack(counters.losses).isfinite()
            raise NonFiniteLoss(self._not_finite(int((~finite).int().argmax())))
        validating = now - self._eval.started if self._val else 0.0
        seconds = now - counters.started
        metrics |= self._val
        metrics["lr"] = counters.rates[-1]
        metrics["seconds"] = seconds
        metrics["samples_per_second"] = sum(counters.sizes) * self.trainer.world_size / (seconds - validating)
        # Loggers take "step" for their axis: here it counts the epochs that are over.
        self._log(metrics | {"step": float(self.current_epoch + 1)})

    def on_validation_start(self) -> None:
        self._eval = _Counters()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._count(batch, self._eval)

    def on_validation_end(self) -> None:
        self._val = self._metrics("val", self._eval)

    def on_test_start(self) -> None:
        self._eval = _Counters()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._count(batch, self._eval)

    def on_test_epoch_end(self) -> None:
        self._log(self._metrics("test", self._eval))

    def _log(self, metrics: dict[str, float]) -> None:
        """Hand metrics that all ranks agree on to the loggers; Lightning would round plain floats to float32."""
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        self.log_dict({name: torch.tensor(value, dtype=dtype) for name, value in metrics.items()}, sync_dist=True)

    def _count(self, batch: tuple[Tensor, Tensor], counters: "_Counters") -> Tensor:
        inputs, targets = batch
        output = self.network(inputs)
        compared = targets
        if targets.dtype == torch.int64 and not isinstance(self.loss, INDEXED):
            compared = one_hot(targets, output.shape[1]).to(output.dtype)
        loss: Tensor = self.loss(output, compared)
        with torch.no_grad():
            if self.metric == "mae":
                score = (output - compared).abs().sum()
            elif targets.dtype == torch.int64:
                score = (output.argmax(1) == targets).sum()
            else:
                score = ((output > 0) == (targets > 0.5)).sum()
        counters.losses.append(loss.detach())
        counters.scores.append(score)
        counters.sizes.append(len(inputs))
        counters.judged += targets.numel()
        return loss

    def _metrics(self, stage: str, counters: "_Counters") -> dict[str, float]:
        """Means over the pass that has just ended, on all ranks."""
        totals = counters.totals()
        if self.trainer.world_size > 1:
            totals = self.trainer.strategy.reduce(totals.to(self.device), reduce_op="sum").cpu()
        loss, samples, score, judged = totals.tolist()
        return {f"{stage}/loss": loss / samples, f"{stage}/{self.metric}": score / judged}

    def _not_finite(self, batch_idx: int) -> str:
        counters = self._train
        step = counters.first_step + batch_idx // self.trainer.accumulate_grad_batches + 1
        return (
            f"the loss is {counters.losses[batch_idx].item()} at step {step} (epoch {self.current_epoch + 1}), with "
            f"learning rate {counters.rates[batch_idx]:g}; try a smaller optimizer.lr, or trainer.gradient_clip_val=1"
        )


class _Counters:
    """One pass over the data: tensors stay on the device and are read once, at its end."""

    def __init__(self, first_step: int = 0) -> None:
        self.first_step = first_step
        self.started = time.perf_counter()
        self.losses: list[Tensor] = []
        self.scores: list[Tensor] = []
        self.sizes: list[int] = []
        self.rates: list[float] = []
        self.judged = 0

    def totals(self) -> Tensor:
        """Sums of loss, samples, score and answers judged, float64 (4,): they can be added over ranks."""
        sizes = torch.tensor(self.sizes, dtype=torch.float64)
        # A rank may have had no batch at all.
        losses, scores = (torch.stack(kept).double().cpu() if kept else sizes for kept in (self.losses, self.scores))
        return torch.tensor([(losses * sizes).sum(), sizes.sum(), scores.sum(), self.judged], dtype=torch.float64)
