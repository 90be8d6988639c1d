"""The error of a run whose loss is not finite, and its message."""

import math

from lamella.training.metrics import Counters
from lamella.training.scheduler import Schedule

SMALLER = "try a smaller optimizer.lr, or trainer.gradient_clip_val=1"


class NonFiniteLoss(RuntimeError):
    """The error of a run whose loss became NaN or infinite."""

    @classmethod
    def at(cls, batch: int, counters: Counters, epoch: int, accumulated: int, schedule: Schedule) -> "NonFiniteLoss":
        """Return the error for a training batch.

        batch: its number in the epoch. counters, epoch: those of the epoch, from 0 on. accumulated: the number of
        batches of an optimizer step.
        """
        step = counters.first_step + batch // accumulated
        rate = counters.rates[batch] * schedule.warmup(step)
        # The list is empty if the loss is finite on this rank, but not on another one.
        losses = [float(loss) for loss in counters.losses[batch:] if not loss.isfinite()]
        return cls(
            f"the loss is {losses[0] if losses else math.nan} at step {step + 1} (epoch {epoch + 1}), "
            f"with learning rate {rate:g}; {SMALLER}"
        )
