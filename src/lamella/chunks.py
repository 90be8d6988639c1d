"""Many optimizer steps as one of Lightning's, whose own work for a step is as long as that of a small net."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor

from lamella.kernels import Direct

SECONDS = 0.2  # how long a chunk takes; between chunks signals are heard, and checkpoints and the bar have their turn
GROWTH = 4  # a chunk is at most so many times the one before, whose time may have been anything
# What Lightning calls for each batch, and what a callback that has one of them wants to see.
HOOKS = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)

Batch = tuple[Tensor, Tensor]


class Chunk(tuple[Tensor, Tensor]):
    """The last batch (inputs, targets) of several. before: the others, which are made as they are asked for."""

    before: Iterator[Batch]

    @classmethod
    def of(cls, last: Batch, before: Iterable[Batch]) -> "Chunk":
        chunk = cls(last)
        chunk.before = iter(before)
        return chunk


class Sizes:
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
        watched = size is None and any(looks(type(own)) for one in callbacks for own in getattr(one, "drawn", [one]))
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


def looks(kind: type[pl.Callback]) -> bool:
    """Whether a class of callbacks that is not Lamella's has a hook that is called for each batch."""
    own = kind.__module__.startswith("lamella.")
    return not own and any(getattr(kind, name) is not getattr(pl.Callback, name) for name in HOOKS)


def run(task: pl.LightningModule, chunk: Chunk) -> None:
    """Take the steps of a chunk but for its last batch, which is Lightning's, as Lightning would one by one."""
    trainer = task.trainer
    for _ in steps(task, chunk, lambda batch: task.training_step(batch, trainer.fit_loop.batch_idx), Tensor.backward):
        pass


def steps(
    task: pl.LightningModule,
    chunk: Chunk,
    forward: Callable[[Batch], Any],
    backward: Callable[[Tensor], None],
) -> Iterator[Batch]:
    """The same, halting before each step with its batch.

    forward: gives a batch's loss. backward: called with the loss, or its share where several batches are a step, and
    adds to the gradients.
    """
    trainer = task.trainer
    epoch, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
    assert fetcher is not None
    progress, optimized = epoch.batch_progress, epoch.automatic_optimization.optim_progress.optimizer
    [original], accumulated, clip = trainer.optimizers, trainer.accumulate_grad_batches, trainer.gradient_clip_val
    optimizer: Any = Direct(original)

    def step(batch: Batch) -> Any:
        loss = forward(batch)
        if epoch.batch_idx % accumulated == 0:
            optimized.zero_grad.increment_ready()
            optimized.zero_grad.increment_started()
            optimizer.zero_grad()
            optimized.zero_grad.increment_completed()
        backward(loss / accumulated if accumulated > 1 else loss)
        if clip is not None and not epoch._should_accumulate():
            task.clip_gradients(original, clip, trainer.gradient_clip_algorithm)
        return loss

    for batch in chunk.before:
        progress.increment_started()
        yield batch
        if epoch._should_accumulate():
            step(batch)
        else:
            optimized.step.increment_ready()
            task.optimizer_step(trainer.current_epoch, epoch.batch_idx, optimizer, partial(step, batch))
            optimized.step.increment_completed()
            epoch._batches_that_stepped += 1
        progress.increment_processed()
        epoch.update_lr_schedulers("step", update_plateau_schedulers=False)
        progress.increment_completed()
        progress.increment_ready()
        fetcher.fetched += 1
    if epoch.batch_idx % accumulated:
        # Lightning goes by the number of the chunk's first batch, and will count what is not done for the last one.
        for counts in map(vars, (optimized.zero_grad.current, optimized.zero_grad.total)):
            counts |= {name: count - 1 for name, count in counts.items()}
    fetcher.done = progress.is_last_batch = fetcher.length is not None and fetcher.fetched >= fetcher.length
