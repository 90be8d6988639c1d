"""Try learning rates: train a few steps while the rate rises, and find where the loss falls fastest.

This is the learning-rate range test of Smith, "Cyclical Learning Rates for Training Neural Networks",
https://arxiv.org/abs/1506.01186.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lamella.errors import RequestError
from lamella.training.parameter_groups import rate_of
from lamella.training.scheduler import Schedule

FIRST, LAST, STEPS = 1e-8, 10.0, 136  # the rates of the first and the last step, 15 steps for each factor of 10
SMOOTH = 0.8  # the weight of the steps before in the smoothed loss
SPAN = 8  # over how many steps the slope of the smoothed loss is measured, about a factor of 3 in the rate


def rate_at(step: int) -> float:
    """Return the rate of `optimizer.lr` in a step, counted from 0."""
    return float(FIRST * (LAST / FIRST) ** (step / (STEPS - 1)))


def rising_rates() -> Schedule:
    """Return a schedule in which `optimizer.lr` rises from FIRST to LAST, step by step.

    The parameter groups keep their proportions to it. Raises RequestError, when the scheduler is made, for an
    optimizer with a rate of 0.
    """

    def make(optimizer: Optimizer, length: int | None) -> LambdaLR:
        rate = rate_of(optimizer.param_groups)
        if not rate > 0:
            raise RequestError(
                f"optimizer.lr is {rate:g}, and each parameter group gets its own rate times one factor; write a rate "
                "above 0",
                "optimizer.lr",
            )
        return LambdaLR(optimizer, lambda step: rate_at(step) / rate)

    return Schedule(make, "step")


@dataclass
class LossCurve:
    """The loss of each step of a range test, and the smoothed losses.

    diverged: whether the loss rose far above its lowest value, or was not finite, before the last rate was reached.
    """

    losses: list[float] = field(default_factory=list)
    smoothed: list[float] = field(default_factory=list)
    diverged: bool = False

    def add(self, loss: float) -> None:
        """Add the loss of the next step."""
        if not math.isfinite(loss):
            self.diverged = True
            return
        self.losses.append(loss)
        mean, weight = 0.0, 0.0
        for one in self.losses:
            mean, weight = SMOOTH * mean + (1 - SMOOTH) * one, SMOOTH * weight + (1 - SMOOTH)
        self.smoothed.append(mean / weight)
        lowest = min(self.smoothed)
        self.diverged = self.smoothed[-1] > lowest + max(abs(self.losses[0]), self.smoothed[0] - lowest)

    def best(self) -> int | None:
        """Return the step at whose rate the smoothed loss falls fastest, None where it does not fall."""
        lowest = self.smoothed.index(min(self.smoothed)) if self.smoothed else 0
        falls = {
            step: self.smoothed[step - SPAN // 2] - self.smoothed[step + SPAN // 2]
            for step in range(SPAN // 2, lowest - SPAN // 2 + 1)
        }
        if not falls or self.smoothed[lowest] > self.smoothed[SPAN] - 0.05 * abs(self.smoothed[SPAN]):
            return None
        return max(falls, key=lambda step: falls[step])


class RangeTest(pl.Callback):
    """A callback that keeps the loss of each optimizer step, and ends the training when the loss diverges."""

    def __init__(self) -> None:
        self.curve = LossCurve()
        self.losses = list[float]()  # of the batches since the last step

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: object,
        batch_idx: int,
    ) -> None:
        assert isinstance(outputs, Mapping)
        self.losses.append(float(outputs["loss"]) * trainer.accumulate_grad_batches)  # by which Lightning has divided
        if trainer.global_step > len(self.curve.losses):
            self.curve.add(sum(self.losses) / len(self.losses))
            self.losses, trainer.should_stop = [], self.curve.diverged
