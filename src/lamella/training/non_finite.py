"""The error of a run whose loss is not finite, and its message."""

import math
from collections.abc import Collection

import pytorch_lightning as pl
import torch

from lamella.training.metrics import Counters
from lamella.training.optimizers import SINGLE
from lamella.training.passes import Pass
from lamella.training.scheduler import Schedule


def smaller(optimizers: Collection[str]) -> str:
    """Return what to try against a loss that is not finite. optimizers: the names of those that may be to blame."""
    if SINGLE in optimizers:
        return "try a smaller optimizer.lr, or trainer.gradient_clip_val=1"
    return f"try a smaller {' or '.join(f'optimizer.{name}.lr' for name in optimizers)}"


class NonFiniteLoss(RuntimeError):
    """The error of a run whose loss became NaN or infinite."""

    @classmethod
    def at(cls, batch: int, name: str, counters: Counters, trainer: pl.Trainer, schedule: Schedule) -> "NonFiniteLoss":
        """Return the error for a training batch of an optimizer.

        batch: its number among those of the epoch in which the optimizer had its turn. name: of the optimizer.
        """
        step = counters.first_step + batch // trainer.accumulate_grad_batches
        rate = counters.rates[batch] * schedule.warmup(step)
        # The list is empty if the loss is finite on this rank, but not on another one.
        losses = [float(loss) for loss in counters.losses[batch:] if not loss.isfinite()]
        return cls(
            f"the loss {f'of {name} ' if name else ''}is {losses[0] if losses else math.nan} at step {step + 1} "
            f"(epoch {trainer.current_epoch + 1}), with learning rate {rate:g}; {smaller([name])}"
        )


def check_finite(counted: Pass, trainer: pl.Trainer, schedule: Schedule) -> None:
    """Raise NonFiniteLoss for the first training loss of the epoch that is not finite on some rank."""
    for name, counters in counted.counters.items():
        if not counters.losses:
            continue
        finite = torch.stack(counters.losses).isfinite()
        first = torch.where(finite.all(), len(finite), (~finite).int().argmax())
        if trainer.world_size > 1:
            first = trainer.strategy.reduce(first, reduce_op="min")
        if int(first) < len(finite):
            raise NonFiniteLoss.at(int(first), name, counters, trainer, schedule)
