"""Train several runs as one program: each is an ordinary run, but their steps are computed together.

Each run has its own Trainer in its own thread, and only one of these threads works at a time. When a Trainer has a
chunk of steps to take, its thread waits until all the others have one too; then the main thread takes the steps.
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

ROUND = 2.0  # seconds after which the Trainers have their turn, to notice signals and to save
NOTE = "others of its sweep as one program"  # why the bits may differ from those of a run by itself


def train_fused(paths: Sequence[Path], outputs: Sequence[TextIO]) -> int:
    """Start or resume the runs in `paths`, members of a sweep that differ in numbers alone.

    outputs: the files for what the runs print. Returns the exit status, which is not 0 if a run has not finished.
    """
    runs: list[tuple[Experiment, RunWriter, TextIO]] = []
    status = 0
    with quiet_lightning():  # once around all runs, because each restores the state that it finds
        for path, output in zip(paths, outputs, strict=True):
            try:
                run = open_run(path, data=runs[0][0].data if runs else None)
            except (RequestError, OSError) as error:
                print_error(error, output)
                status = 2
                continue
            if run:
                runs.append((*run, output))
        inexact = [NOTE] if len(runs) > 1 else []
        with run_interrupts([writer for _, writer, _ in runs]) as interrupts:
            members = [
                FusedRun(experiment, partial(train_run, experiment, writer, interrupts, inexact), output)
                for experiment, writer, output in runs
            ]
            _train_members(members)
    return max([status, *(member.status for member in members)])


def _train_members(members: Sequence[FusedRun]) -> None:
    """Let the Trainers and the steps take turns until all members are over."""
    width, width_was_printed = FusedWidth(len(members)), False
    while members:
        for member in members:
            if member.batch is None:
                member.resume()
        members = [member for member in members if not member.over]
        if members:
            _take_steps(members, width)
        if width.chosen:
            seconds = width.step_seconds(width.size)
            for member in members:
                member.set_chunk_length(max(1, int(ROUND / (seconds * len(members)))))
                if not width_was_printed:
                    member.print(f"{width.size} network{'s' * (width.size > 1)} at once: {width.measured()}")
            width_was_printed = True


def _take_steps(members: Sequence[FusedRun], width: FusedWidth) -> None:
    """Take the steps for which all members of a group have a batch, one group after another.

    Returns early if the width changes, because the groups are then others.
    """
    size = width.size
    for start in range(0, len(members), size):
        group = members[start : start + size]
        try:
            with _stacked(group) as stack:
                while size == width.size and all(member.batch for member in group):
                    started = time.perf_counter()
                    if stack is not None:
                        _compute(group, stack)
                    for member in group:
                        member.step()
                    if not width.chosen and members[0].task.device.type != "cpu":
                        torch.accelerator.synchronize()  # otherwise the time of a kernel's start is measured
                    if len(group) == min(size, len(members)):  # the last group may be smaller
                        width.record_step((time.perf_counter() - started) / len(group))
        except Exception as error:
            # If one of the members is the cause, it fails again when it is computed by itself.
            width.limit(size // 2 if isinstance(error, torch.OutOfMemoryError) else 1)
            for member in group:
                member.print(f"{len(group)} networks cannot be computed at once: {first_line(error)}")
        if size != width.size:
            return


@contextmanager
def _stacked(members: Sequence[FusedRun]) -> Iterator[NetworkStack | None]:
    """Stack the networks of the members within the block, and flatten the parameters of their optimizers.

    Yields None for a single member, which is computed by itself. Raises RuntimeError if the networks are not alike.
    """
    if len(members) == 1:
        yield None
        return
    with torch.device("meta"):
        base = members[0].experiment.plan.build()
    stack = NetworkStack([member.task.network for member in members], base, [member.task.loss for member in members])
    try:
        for member, values in zip(members, stack.rows, strict=True):
            [optimizer] = member.task.trainer.optimizers
            member.flat = FlatParameter(optimizer, values)
        yield stack
    finally:
        for member in members:
            try:
                if member.flat is not None:
                    member.flat.part()
            except Exception as error:  # for example out of memory; only this member cannot go on
                member.batch, member.failure = None, error
            member.flat = None
        stack.release()


def _compute(members: Sequence[FusedRun], stack: NetworkStack) -> None:
    """Compute the loss and the gradient of each member's batch."""
    inputs, targets = (torch.stack(tensors) for tensors in zip(*(member.batch for member in members), strict=True))
    members[0].task.reseed()
    outputs = stack(inputs)
    losses, compared = stack.losses(outputs, targets)
    gradients = stack.gradients(losses)
    results = zip(losses.detach().unbind(), outputs.detach().unbind(), compared, gradients, strict=True)
    for member, computed in zip(members, results, strict=True):
        member.computed = computed
