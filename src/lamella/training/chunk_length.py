"""How many batches are trained as one of Lightning's steps."""

import math
import time
from collections.abc import Callable

import pytorch_lightning as pl
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.strategies import SingleDeviceStrategy

SECONDS = 0.2  # how long a chunk takes; between chunks signals are heard, and checkpoints and the bar have their turn
GROWTH = 4  # a chunk is at most so many times the one before, whose time may have been anything
# What Lightning calls for each batch, and what a callback that has one of them wants to see.
BATCH_HOOKS = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)


class ChunkLength:
    """How many batches are a chunk: `size`, or None for as many as take SECONDS.

    due: called with the number of optimizer steps so far, how many come before the next checkpoint. A chunk ends with
    an optimizer step, or where a validation comes; at the latest with the epoch, the last step or a checkpoint. It is
    one batch where Lightning has to do each by itself: with several processes, mixed precision or a profiler; without
    a `size`, where a callback other than Lamella's looks at each batch; and at the start of an epoch, which is drawn.
    """

    def __init__(self, trainer: pl.Trainer, size: int | None, due: Callable[[int], float]) -> None:
        self.trainer, self.size, self.due = trainer, size, due
        self.paced, self.started, self.timed = size or 1, math.inf, size is None
        alone = isinstance(trainer.strategy, SingleDeviceStrategy) and trainer.precision == "32-true"
        profiler, callbacks = trainer.profiler, trainer.callbacks  # type: ignore[attr-defined]
        # Those that draw stand in one callback.
        watched = size is None and any(
            has_batch_hook(type(own)) for one in callbacks for own in getattr(one, "drawn", [one])
        )
        if watched or not alone or not isinstance(profiler, PassThroughProfiler):
            self.size = 1

    def __call__(self, number: int) -> int:
        """Of the chunk that begins with the batch of this number in the epoch."""
        trainer, now = self.trainer, time.perf_counter()
        accumulated, interval = trainer.accumulate_grad_batches, trainer.val_check_batch
        if self.size == 1 or number < accumulated or number % accumulated:
            self.started = math.inf
            return 1
        if self.timed and self.started < now:
            self.paced = max(1, min(GROWTH * self.paced, int(SECONDS * self.paced / (now - self.started))))
        self.started = now
        steps: float = max(1, self.paced // accumulated)
        steps = min(steps, self.due(trainer.global_step))
        if trainer.max_steps >= 0:
            steps = min(steps, trainer.max_steps - trainer.global_step)
        batches = min(steps * accumulated, trainer.num_training_batches - number)
        if interval is not None and interval < math.inf:
            done = number if trainer.check_val_every_n_epoch else trainer.fit_loop.total_batch_idx + 1
            batches = min(batches, interval - done % interval)
        return int(batches)

    def pace(self, batches: int) -> None:
        """Take so many from now on, where that is not fixed, instead of going by the time."""
        if self.size is None:
            self.paced, self.timed = batches, False


def has_batch_hook(kind: type[pl.Callback]) -> bool:
    """Whether a class of callbacks that is not Lamella's has a hook that is called for each batch."""
    own = kind.__module__.startswith("lamella.")
    return not own and any(getattr(kind, name) is not getattr(pl.Callback, name) for name in BATCH_HOOKS)
