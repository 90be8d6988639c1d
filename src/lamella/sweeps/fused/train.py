"""Runs as one program: each an ordinary run, but for the steps, which are computed for all networks at once.

Every run has its own Trainer, in a thread of its own, and one of these threads is at work at a time. Where a Trainer
has a chunk of steps to take, its thread waits until all others have one too, and the main thread takes the steps.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TextIO

import torch

from lamella.console import print_error
from lamella.errors import RequestError, first_line
from lamella.experiment.experiment import Experiment
from lamella.experiment.resume import open_run
from lamella.experiment.session import run_interrupts, train_run
from lamella.runs.writer import RunWriter
from lamella.sweeps.fused.flat_parameter import FlatParameter
from lamella.sweeps.fused.member import FusedRun
from lamella.sweeps.fused.stack import NetworkStack
from lamella.sweeps.fused.width import FusedWidth
from lamella.training.trainer import quiet_lightning

ROUND = 2.0  # seconds after which the Trainers have their turn, to hear signals and to save
NOTE = "others of its sweep as one program"


def train_fused(paths: Sequence[Path], outputs: Sequence[TextIO]) -> int:
    """Begin the runs in `paths`, members of a sweep that differ in numbers alone, or go on with them.

    outputs: for what each of them prints. Returns the exit status, other than 0 where one of them is not finished.
    """
    found: list[tuple[Experiment, RunWriter, TextIO]] = []
    status = 0
    with quiet_lightning():  # around all of them, since each puts back what was there before it
        for path, output in zip(paths, outputs, strict=True):
            try:
                run = open_run(path, data=found[0][0].data if found else None)
            except (RequestError, OSError) as error:
                print_error(error, output)
                status = 2
                continue
            if run:
                found.append((*run, output))
        inexact = [NOTE] if len(found) > 1 else []
        for experiment, *_ in found[:1]:
            experiment.device.configure_process()
        with run_interrupts([record for _, record, _ in found]) as heard:
            members = [
                FusedRun(experiment, partial(train_run, experiment, record, heard, inexact), output)
                for experiment, record, output in found
            ]
            _train(members)
    return max([status, *(member.status for member in members)])


def _train(members: Sequence[FusedRun]) -> None:
    width, told = FusedWidth(len(members)), False
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


def _take_steps(members: Sequence[FusedRun], width: FusedWidth) -> None:
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
def _joined(members: Sequence[FusedRun]) -> Iterator[NetworkStack | None]:
    """The members' networks as one, within it; None where there is but one. Raises RuntimeError."""
    if len(members) == 1:
        yield None
        return
    with torch.device("meta"):
        base = members[0].experiment.plan.build()
    stack = NetworkStack([member.task.network for member in members], base, [member.task.loss for member in members])
    try:
        for member, values in zip(members, stack.rows, strict=True):
            [optimizer] = member.task.trainer.optimizers
            member.row = FlatParameter(optimizer, values)
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


def _compute(members: Sequence[FusedRun], stack: NetworkStack) -> None:
    """The losses and gradients of each member's batch."""
    inputs, targets = (torch.stack(parts) for parts in zip(*(member.batch for member in members), strict=True))
    members[0].task.reseed()
    outputs = stack(inputs)
    losses, compared = stack.losses(outputs, targets)
    gradients = stack.gradients(losses)
    found = zip(losses.detach().unbind(), outputs.detach().unbind(), compared, gradients, strict=True)
    for member, computed in zip(members, found, strict=True):
        member.computed = computed
