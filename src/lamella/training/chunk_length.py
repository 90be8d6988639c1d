"""Decide how many batches are trained as one step of Lightning."""

import math
import time
from collections.abc import Callable

import pytorch_lightning as pl
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.strategies import SingleDeviceStrategy

from lamella.console import print
from lamella.lightning_internals import batches_until_validation, missing_for_chunks

SECONDS = 0.2  # how long a chunk takes; signals, checkpoints and the progress bar have their turn between chunks
GROWTH = 4  # a chunk is at most so many times as long as the one before, whose time may have been an exception
PRECISIONS = ("32-true", "bf16-mixed")  # those with which Lightning scales no loss and converts no batch
# The hooks that Lightning calls for each batch. A callback that defines one of them wants to see each batch.
BATCH_HOOKS = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)


class ChunkLength:
    """Decides how many batches a chunk has: `size`, or if that is None, as many as take SECONDS.

    due: called with the number of optimizer steps so far; returns the number of steps before the next checkpoint. A
    chunk ends with an optimizer step or where a validation comes, and at the latest where the epoch ends, the last
    step is taken or a checkpoint is due. A chunk is one batch where Lightning has to train each batch itself: with
    several processes, a precision that is not in PRECISIONS, or a profiler; with a version of Lightning in which
    something that chunks need is missing; if `size` is None, with a callback of others that looks at each batch; and at
    the start of an epoch, which is drawn.
    """

    def __init__(self, trainer: pl.Trainer, size: int | None, due: Callable[[int], float]) -> None:
        self.trainer, self.size, self.due = trainer, size, due
        self.paced, self.started, self.timed = size or 1, math.inf, size is None
        self.checked = False  # whether this version of Lightning has all that chunks need
        alone = isinstance(trainer.strategy, SingleDeviceStrategy) and trainer.precision in PRECISIONS
        profiler, callbacks = trainer.profiler, trainer.callbacks  # type: ignore[attr-defined]
        # VisualCallbacks has the callbacks that draw in its attribute `drawn`.
        watched = size is None and any(
            has_batch_hook(type(inner)) for outer in callbacks for inner in getattr(outer, "drawn", [outer])
        )
        if watched or not alone or not isinstance(profiler, PassThroughProfiler):
            self.size = 1

    def __call__(self, number: int) -> int:
        """Return how many batches the chunk that begins with batch `number` of the epoch has."""
        trainer, now, accumulated = self.trainer, time.perf_counter(), self.trainer.accumulate_grad_batches
        if self.size == 1 or number < accumulated or number % accumulated or not self._lightning_is_known():
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
        return int(min(batches, batches_until_validation(trainer, number)))

    def pace(self, batches: int) -> None:
        """Set the length of the following chunks to `batches` instead of going by the time, unless `size` is given."""
        if self.size is None:
            self.paced, self.timed = batches, False

    def _lightning_is_known(self) -> bool:
        """Return True if Lightning has all attributes that chunks need; else print a line, and train without chunks."""
        if not self.checked:
            self.checked = True
            if name := missing_for_chunks(self.trainer):
                print(f"without chunks: this version of pytorch-lightning has no trainer.{name}")
                self.size = 1
        return self.size != 1


def has_batch_hook(kind: type[pl.Callback]) -> bool:
    """Return True if a class of callbacks that is not Lamella's defines a hook that is called for each batch."""
    shipped = kind.__module__.startswith("lamella.")
    return not shipped and any(getattr(kind, name) is not getattr(pl.Callback, name) for name in BATCH_HOOKS)
