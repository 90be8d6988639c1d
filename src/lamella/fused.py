"""Runs as one program: each an ordinary run, but for the steps, which are computed for all networks at once.

Every run has its own Trainer, in a thread of its own, and one of these threads is at work at a time. Where a Trainer
has a chunk of steps to take, its thread waits until all others have one too, and the main thread takes the steps.
"""

import statistics
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from lamella import attempt, chunks, trainers
from lamella.build import Experiment
from lamella.chunks import Batch, Chunk
from lamella.commands.resume import opened
from lamella.errors import RequestError, first_line
from lamella.record import Run
from lamella.stacks import Row, Stack
from lamella.summary import printable
from lamella.task import Task

ROUND = 2.0  # seconds after which the Trainers have their turn, to hear signals and to save
TRIED = 5  # steps with each width; the first of them is not counted
NOTE = "others of its sweep as one program"


def train(paths: Sequence[Path], outputs: Sequence[TextIO]) -> int:
    """Begin the runs in `paths`, members of a sweep that differ in numbers alone, or go on with them.

    outputs: for what each of them prints. Returns the exit status, other than 0 where one of them is not finished.
    """
    found: list[tuple[Experiment, Run, TextIO]] = []
    status = 0
    with trainers.quiet():  # around all of them, since each puts back what was there before it
        for path, output in zip(paths, outputs, strict=True):
            try:
                run = opened(path, data=found[0][0].data if found else None)
            except (RequestError, OSError) as error:
                print(f"error: {printable(str(error))}", file=output)
                status = 2
                continue
            if run:
                found.append((*run, output))
        inexact = [NOTE] if len(found) > 1 else []
        with attempt.interrupts([record for _, record, _ in found]) as heard:
            members = [
                Member(experiment, partial(attempt.go, experiment, record, heard, *inexact), output)
                for experiment, record, output in found
            ]
            _train(members)
    return max([status, *(member.status for member in members)])


class Member:
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
        self.row: Row | None = None

    def __deepcopy__(self, memo: Any) -> "Member":
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
            print(f"error: {printable(str(error))}", file=sys.stderr)
            self.status = 2
        except BaseException:
            traceback.print_exc()
            self.status = 1
        finally:
            self.over = True
            self.back.release()

    def _wait(self, task: Task, chunk: Chunk) -> None:
        """What the task does with a chunk: leave it to the main thread."""
        self.steps = chunks.steps(task, chunk, self._forward, self._backward)
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


class Width:
    """How many of the networks are computed as one: what is fastest, tried on the first steps."""

    def __init__(self, members: int) -> None:
        self.size = members
        self.seconds: dict[int, list[float]] = {}
        self.chosen = False

    def took(self, seconds: float) -> None:
        """Note what a step of one member has taken."""
        kept = self.seconds.setdefault(self.size, [])
        if self.chosen or len(kept) == TRIED:
            return
        kept.append(seconds)
        if len(kept) == TRIED:
            best = min(self.seconds, key=self.step)
            if self.size == 1:
                self.size, self.chosen = best, True
            else:
                # Where fewer are slower, still fewer are not tried, but for one.
                self.size = self.size // 2 if best == self.size else 1

    def step(self, size: int) -> float:
        """Seconds that a step of one member takes with such a width."""
        return statistics.median(self.seconds[size][1:])

    def measured(self) -> str:
        """What a step of one member takes with the width that is chosen, and with those that are not."""
        others = [
            f"{f'with {size} at once' if size > 1 else 'by itself'} {1e3 * self.step(size):.2f} ms"
            for size in sorted(self.seconds)
            if size != self.size
        ]
        return "; ".join([f"{1e3 * self.step(self.size):.2f} ms for a step of one", *others])

    def limit(self, size: int) -> None:
        """More cannot be computed as one."""
        self.seconds, self.size, self.chosen = {}, size, False


def _train(members: Sequence[Member]) -> None:
    width, told = Width(len(members)), False
    while members:
        for member in members:
            if member.batch is None:
                member.go_on()
        members = [member for member in members if not member.over]
        if members:
            _take_steps(members, width)
        if width.chosen:
            seconds = width.step(width.size)
            for member in members:
                member.pace(max(1, int(ROUND / (seconds * len(members)))))
                if not told:
                    member.say(f"{width.size} network{'s' * (width.size > 1)} at once: {width.measured()}")
            told = True


def _take_steps(members: Sequence[Member], width: Width) -> None:
    """Take the steps that the members have in common, a group after another; no more where the width changes."""
    size = width.size
    for start in range(0, len(members), size):
        group = members[start : start + size]
        try:
            with _joined(group) as stack:
                while size == width.size and all(member.batch for member in group):
                    started = time.perf_counter()
                    if stack is not None:
                        _compute(group, stack)
                    for member in group:
                        member.step()
                    if not width.chosen and members[0].task.device.type != "cpu":
                        torch.accelerator.synchronize()  # it may have only been asked to
                    if len(group) == min(size, len(members)):  # the last group may be a small one
                        width.took((time.perf_counter() - started) / len(group))
        except Exception as error:
            # What is wrong with one of them, it will run into by itself.
            width.limit(size // 2 if isinstance(error, torch.OutOfMemoryError) else 1)
            for member in group:
                member.say(f"{len(group)} networks cannot be computed at once: {first_line(error)}")
        if size != width.size:
            return


@contextmanager
def _joined(members: Sequence[Member]) -> Iterator[Stack | None]:
    """The members' networks as one, within it; None where there is but one. Raises RuntimeError."""
    if len(members) == 1:
        yield None
        return
    with torch.device("meta"):
        base = members[0].experiment.plan.build()
    stack = Stack([member.task.network for member in members], base, [member.task.loss for member in members])
    try:
        for member, values in zip(members, stack.rows, strict=True):
            [optimizer] = member.task.trainer.optimizers
            member.row = Row(optimizer, values)
        yield stack
    finally:
        for member in members:
            try:
                if member.row is not None:
                    member.row.part()
            except Exception as error:  # no memory, say; it alone cannot go on
                member.batch, member.failure = None, error
            member.row = None
        stack.release()


def _compute(members: Sequence[Member], stack: Stack) -> None:
    """The losses and gradients of each member's batch."""
    inputs, targets = (torch.stack(parts) for parts in zip(*(member.batch for member in members), strict=True))
    members[0].task.reseed()
    outputs = stack(inputs)
    losses, compared = stack.losses(outputs, targets)
    gradients = stack.gradients(losses)
    found = zip(losses.detach().unbind(), outputs.detach().unbind(), compared, gradients, strict=True)
    for member, computed in zip(members, found, strict=True):
        member.computed = computed
