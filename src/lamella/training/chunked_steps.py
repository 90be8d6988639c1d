"""Many optimizer steps as one of Lightning's, whose own work for a step is as long as that of a small net."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from lamella.data.chunk import Batch, Chunk
from lamella.training.optimizer_kernels import DirectOptimizer


def run_chunk(task: pl.LightningModule, chunk: Chunk) -> None:
    """Take the steps of a chunk but for its last batch, which is Lightning's, as Lightning would one by one."""
    trainer = task.trainer
    for _ in chunk_steps(
        task, chunk, lambda batch: task.training_step(batch, trainer.fit_loop.batch_idx), Tensor.backward
    ):
        pass


def chunk_steps(
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
    optimizer: Any = DirectOptimizer(original)

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
