"""A run that is trained together with others."""

import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TextIO

import torch
from torch import Tensor

from lamella.console import print_error
from lamella.data.chunk import Batch, Chunk
from lamella.errors import RequestError
from lamella.experiment.experiment import Experiment
from lamella.sweeps.fused.flat_parameter import FlatParameter
from lamella.training.chunked_steps import chunk_steps
from lamella.training.task import Task


class FusedRun:
    """A run in a thread of its own, which goes on only while the main thread waits.

    work: trains it, and returns the exit status.
    """

    def __init__(self, experiment: Experiment, work: Callable[[], int], output: TextIO) -> None:
        self.experiment, self.work = experiment, work
        # What belongs to the process, and is another for each thread.
        self.own: tuple[Any, ...] = (output, output, threading.excepthook)
        self.turn, self.back = threading.Semaphore(0), threading.Semaphore(0)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.over, self.status = False, 0
        self.steps: Iterator[Batch] = iter(())
        self.batch: Batch | None = None  # of the step that it is to take; None while its Trainer has its turn
        self.failure: Exception | None = None
        # What a stack has computed for the batch: its loss, output, what the loss compares with, and the gradient.
        self.computed: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
        self.row: FlatParameter | None = None

    def __deepcopy__(self, memo: Any) -> "FusedRun":
        return self  # a callback may copy the task, which knows it

    @property
    def task(self) -> Task:
        return self.experiment.task

    def go_on(self) -> None:
        """Let its Trainer go on until it has steps to take, or is over."""
        before = sys.stdout, sys.stderr, threading.excepthook
        sys.stdout, sys.stderr, threading.excepthook = self.own
        if self.thread.ident is None:
            self.thread.start()
        else:
            self.turn.release()
        self.back.acquire()
        self.own = sys.stdout, sys.stderr, threading.excepthook
        sys.stdout, sys.stderr, threading.excepthook = before

    def step(self) -> None:
        """Take the step of the batch, with what was computed for it, and see what the next one is."""
        try:
            self.batch = next(self.steps, None)
        except Exception as error:  # which is to be raised where its Trainer handles it
            self.batch, self.failure = None, error
        self.computed = None

    def pace(self, batches: int) -> None:
        """Let its Trainer hand over so many batches at a time."""
        sizes: Any = self.experiment.data.chunk
        sizes.pace(batches)

    def say(self, text: str) -> None:
        print(text, file=self.own[0])

    def _run(self) -> None:
        try:
            self.task.run_chunk = self._wait
            self.status = self.work()
        except SystemExit as left:
            self.status = int(left.code or 0)
        except RequestError as error:
            print_error(error)
            self.status = 2
        except BaseException:
            traceback.print_exc()
            self.status = 1
        finally:
            self.over = True
            self.back.release()

    def _wait(self, task: Task, chunk: Chunk) -> None:
        """What the task does with a chunk: leave it to the main thread."""
        self.steps = chunk_steps(task, chunk, self._forward, self._backward)
        self.step()
        self.back.release()
        self.turn.acquire()
        if self.failure:
            raise self.failure

    def _forward(self, batch: Batch) -> Tensor:
        if self.computed is None:
            return self.task.training_step(batch, 0)
        loss, output, compared, _ = self.computed
        return self.task.counted(loss, output, batch[1], compared)

    def _backward(self, loss: Tensor) -> None:
        if self.computed is None:
            torch.autograd.backward(loss)
            return
        assert self.row is not None
        gradient, whole = self.computed[3], self.row.whole
        if (batches := self.task.trainer.accumulate_grad_batches) > 1:
            gradient = gradient / batches
        whole.grad = gradient if whole.grad is None else whole.grad + gradient
