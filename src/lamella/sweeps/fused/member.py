"""Run one member of a fused group: an ordinary run whose steps the main thread computes."""

import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, TextIO

import torch
from torch import Tensor
from torch.optim import Optimizer

from lamella.console import print, print_error
from lamella.data import Data
from lamella.data.chunk import Batch, Chunk
from lamella.data.loader import SharedBatches
from lamella.errors import RequestError
from lamella.experiment.experiment import Experiment
from lamella.sweeps.fused.flat_parameter import FlatParameter
from lamella.training.chunk_length import ChunkLength
from lamella.training.chunked_steps import chunk_steps
from lamella.training.task import Task

ProcessState = tuple[TextIO, TextIO, Callable[[threading.ExceptHookArgs], object]]


class FusedRun:
    """A run whose Trainer works in a thread of its own, but only while the main thread waits in `resume`.

    work: trains the run, and returns the exit status. output: the file for what the run prints. Attributes:
        over: whether `work` has returned; `status` is then the exit status.
        batch: the batch to compute next, None while the Trainer has work to do before it.
        computed: what a stack has computed for the batch: its loss, output, score (as `Counters.count` takes it)
            and gradient. None if the Trainer is to compute it by itself.
        flat: the parameters of the run as a row of a stack, None while the run is computed by itself.
        failure: an exception in a step, which is raised in the thread of the Trainer.
    """

    def __init__(self, experiment: Experiment, work: Callable[[], int], output: TextIO) -> None:
        self.experiment, self.work = experiment, work
        # sys.stdout, sys.stderr and threading.excepthook belong to the process, and differ between the runs.
        self.process_state: ProcessState = (output, output, threading.excepthook)
        self.turn, self.back = threading.Semaphore(0), threading.Semaphore(0)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.over, self.status = False, 0
        self.steps: Iterator[Batch] = iter(())
        self.batch: Batch | None = None
        self.failure: Exception | None = None
        self.computed: tuple[Tensor, Tensor, Tensor | None, Tensor] | None = None
        self.flat: FlatParameter | None = None

    def __deepcopy__(self, memo: object) -> "FusedRun":
        return self  # a callback may copy the task, which refers to this object

    @property
    def task(self) -> Task:
        """Return the task of the run."""
        return self.experiment.task

    def resume(self) -> None:
        """Let the Trainer work until it has steps to take, or is over."""
        before = sys.stdout, sys.stderr, threading.excepthook
        sys.stdout, sys.stderr, threading.excepthook = self.process_state
        if self.thread.ident is None:
            self.thread.start()
        else:
            self.turn.release()
        self.back.acquire()
        self.process_state = sys.stdout, sys.stderr, threading.excepthook
        sys.stdout, sys.stderr, threading.excepthook = before

    def step(self) -> None:
        """Take the step of `batch`, with what was computed for it, and find the next batch.

        The last batch of a chunk is only kept for the Trainer, which takes its step.
        """
        try:
            self.batch = next(self.steps, None)
        except Exception as error:  # raised again in the thread of the Trainer, which handles it
            self.batch, self.failure = None, error
        if self.batch is not None:
            self.computed = None

    def compute_alone(self) -> None:
        """Compute the gradient of `batch` without the others and without a trace, to see how long it takes."""
        assert self.batch is not None
        task, (inputs, targets) = self.task, self.batch
        output = task.network(inputs)
        loss = task.objective(output, targets)
        torch.autograd.grad(loss, [one for one in task.network.parameters() if one.requires_grad], allow_unused=True)

    def set_chunk_length(self, batches: int) -> None:
        """Let the Trainer hand over this number of batches at a time."""
        length = self.experiment.data.chunk
        assert isinstance(length, ChunkLength)  # the Trainer of every run sets one
        length.pace(batches)

    def share(self, batches: SharedBatches | None) -> None:
        """Take batches that another run of the same seed has made; None to make all of them."""
        data = self.experiment.data
        assert isinstance(data, Data)  # other data is not trained in groups
        assert data.trained
        data.trained.shared = batches

    def print(self, text: str) -> None:
        """Print a line into the output of the run."""
        print(text, file=self.process_state[0])

    def _run(self) -> None:
        """Do the work; this is the main function of the thread."""
        try:
            task: Any = self.task
            # Assigned to the object, so that Lightning and `chunk_steps` call these in place of the methods of Task.
            self.own = task.training_step, task.backward, task.optimizer_step
            task.on_train_batch_start, task.training_step = self._batch_start, self._forward
            task.backward, task.optimizer_step = self._backward, self._optimizer_step
            self.status = self.work()
        except SystemExit as end:
            self.status = int(end.code or 0)
        except RequestError as error:
            print_error(error)
            self.status = 2
        except BaseException:
            print(traceback.format_exc(), end="", file=sys.stderr)
            self.status = 1
        finally:
            self.over = True
            self.back.release()

    def _batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Leave the steps of a chunk to the main thread, and return when the Trainer is to take the last one."""
        task = self.task
        steps = chunk_steps(task, batch, self._forward, self._backward) if isinstance(batch, Chunk) else ()
        self._hand_over(chain(steps, [(batch[0], batch[1])]))

    def _hand_over(self, steps: Iterator[Batch]) -> None:
        """Wait until the main thread has computed the batches that `steps` yields."""
        self.steps = steps
        self.step()
        self.back.release()
        self.turn.acquire()
        if self.failure:
            raise self.failure

    def _forward(self, batch: Batch, batch_idx: int = 0) -> Tensor:
        """Return the loss of a batch, and count it in the metrics."""
        if self.computed is None:
            alone: Tensor = self.own[0](batch, batch_idx)
            return alone
        loss, output, score, _ = self.computed
        return self.task.counted({"loss": loss, "output": output}, batch[1], score=score)

    def _backward(self, loss: Tensor, *arguments: Any, **options: Any) -> None:
        """Add to the gradients."""
        if self.computed is None:
            self.own[1](loss, *arguments, **options)
            return
        gradient = self.computed[-1]
        if (batches := self.task.trainer.accumulate_grad_batches) > 1:
            gradient = gradient / batches
        parameters = self._optimizer().param_groups[0]["params"]
        for parameter, part in zip(parameters, torch.split(gradient, [one.numel() for one in parameters]), strict=True):
            part = part.view(parameter.shape)
            parameter.grad = part if parameter.grad is None else parameter.grad + part

    def _optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Take an optimizer step for the flat parameter, also where the Trainer takes it.

        The kernels of torch round the last few numbers of a tensor in another way, so that a step for separate
        parameters would have other bits.
        """
        if self.computed is None or self.flat is not None:
            self.own[2](epoch, batch_idx, optimizer, optimizer_closure)
            return
        parameters = self._optimizer().param_groups[0]["params"]
        values = torch.cat([parameter.detach().flatten() for parameter in parameters])
        flat = FlatParameter(self._optimizer(), values)
        try:
            self.own[2](epoch, batch_idx, optimizer, optimizer_closure)
        finally:
            flat.part()
        with torch.no_grad():
            for parameter, part in zip(parameters, torch.split(values, flat.sizes), strict=True):
                parameter.copy_(part.view(parameter.shape))

    def _optimizer(self) -> Optimizer:
        """Return the optimizer of the run."""
        [optimizer] = self.task.trainer.optimizers
        return optimizer
