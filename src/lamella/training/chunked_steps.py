"""Train many batches as one step of Lightning, whose own work for a step takes as long as a step of a small network."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

import pytorch_lightning as pl
from torch import Tensor
from torch.optim import Optimizer

from lamella.data.chunk import Batch, Chunk
from lamella.lightning_internals import LoopCounters, batch_index
from lamella.training.optimizer_kernels import DirectOptimizer


class ChunkTask(Protocol):
    """A LightningModule whose batches can be trained in chunks."""

    @property
    def trainer(self) -> pl.Trainer: ...

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor: ...

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: DirectOptimizer, optimizer_closure: Callable[[], Tensor]
    ) -> None: ...

    def clip_gradients(
        self, optimizer: Optimizer, gradient_clip_val: float | None, gradient_clip_algorithm: str | None
    ) -> None: ...


def run_chunk(task: ChunkTask, chunk: Chunk) -> None:
    """Train all batches of a chunk but the last one exactly as Lightning would; Lightning then trains the last one."""
    trainer = task.trainer
    for _ in chunk_steps(task, chunk, lambda batch: task.training_step(batch, batch_index(trainer)), Tensor.backward):
        pass


def chunk_steps(
    task: ChunkTask,
    chunk: Chunk,
    forward: Callable[[Batch], Tensor],
    backward: Callable[[Tensor], None],
) -> Iterator[Batch]:
    """Train all batches of a chunk but the last one, and yield each batch just before it is trained.

    The caller decides when the next batch is trained, and can so train several runs in turn. forward: returns the
    loss of a batch. backward: called with the loss, divided by the number of batches of an optimizer step, and adds
    to the gradients.
    """
    trainer = task.trainer
    [optimizer], accumulated, clip = trainer.optimizers, trainer.accumulate_grad_batches, trainer.gradient_clip_val
    counters, direct = LoopCounters(trainer), DirectOptimizer(optimizer)
    number = batch_index(trainer)  # of the running batch in the epoch

    def compute_gradients(batch: Batch) -> Tensor:
        with trainer.precision_plugin.train_step_context():
            loss = forward(batch)
        if number % accumulated == 0:
            direct.zero_grad()
            counters.count_zero_grad()
        backward(loss / accumulated if accumulated > 1 else loss)
        if clip is not None and not counters.accumulates():
            task.clip_gradients(optimizer, clip, trainer.gradient_clip_algorithm)
        return loss

    for batch in chunk.before:
        counters.begin_batch()
        yield batch
        if counters.accumulates():
            compute_gradients(batch)
        else:
            task.optimizer_step(trainer.current_epoch, number, direct, partial(compute_gradients, batch))
            counters.count_step()
        counters.end_batch()
        number += 1
    counters.end_chunk(number, accumulated)
