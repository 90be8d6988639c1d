"""Run one member of a fused group: an ordinary run whose steps the main thread computes."""

import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import TextIO

import torch
from torch import Tensor

from lamella.console import print, print_error
from lamella.data.chunk import Batch, Chunk
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
        batch: the batch of the next step, None while the Trainer has work to do before it.
        computed: what a stack has computed for the batch: its loss, output, the targets in the form that the loss
            takes, and the gradient.
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
        self.computed: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
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
        """Take the step of `batch`, with what was computed for it, and find the next batch."""
        try:
            self.batch = next(self.steps, None)
        except Exception as error:  # raised again in the thread of the Trainer, which handles it
            self.batch, self.failure = None, error
        self.computed = None

    def set_chunk_length(self, batches: int) -> None:
        """Let the Trainer hand over this number of batches at a time."""
        length = self.experiment.data.chunk
        assert isinstance(length, ChunkLength)  # the Trainer of every run sets one
        length.pace(batches)

    def print(self, text: str) -> None:
        """Print a line into the output of the run."""
        print(text, file=self.process_state[0])

    def _run(self) -> None:
        """Do the work; this is the main function of the thread."""
        try:
            self.task.run_chunk = self._wait_for_steps
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

    def _wait_for_steps(self, task: Task, chunk: Chunk) -> None:
        """Leave the steps of a chunk to the main thread, in place of `run_chunk`, and wait until all are taken."""
        self.steps = chunk_steps(task, chunk, self._forward, self._backward)
        self.step()
        self.back.release()
        self.turn.acquire()
        if self.failure:
            raise self.failure

    def _forward(self, batch: Batch) -> Tensor:
        """Return the loss of a batch, and count it in the metrics."""
        if self.computed is None:
            return self.task.training_step(batch, 0)
        loss, output, compared, _ = self.computed
        return self.task.counted(loss, output, batch[1], compared)

    def _backward(self, loss: Tensor) -> None:
        """Add to the gradients."""
        if self.computed is None:
            torch.autograd.backward(loss)
            return
        assert self.flat is not None
        gradient, whole = self.computed[3], self.flat.whole
        if (batches := self.task.trainer.accumulate_grad_batches) > 1:
            gradient = gradient / batches
        whole.grad = gradient if whole.grad is None else whole.grad + gradient
