"""Train several runs as one program: each is an ordinary run, but their steps are computed together.

Each run has its own Trainer in its own thread, and only one of these threads works at a time. When a Trainer has a
chunk of steps to take, its thread waits until all the others have one too; then the main thread takes the steps.

A member's bits depend neither on the other members, nor on how many there are, nor on how its steps are divided into
chunks: so a sweep that was killed ends with the bits that it would have had. For this, every step has gradients from a
stack of at least two networks, and its optimizer step is taken for one flat parameter, also where the Trainer takes it.
"""

import copy
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TextIO

import torch

from lamella.console import print_error
from lamella.data.loader import SharedBatches
from lamella.errors import RequestError, first_line
from lamella.experiment.experiment import Experiment
from lamella.experiment.resume import open_run
from lamella.experiment.session import run_interrupts, train_run
from lamella.runs.writer import RunWriter
from lamella.sweeps.fused.flat_parameter import FlatParameter
from lamella.sweeps.fused.member import FusedRun
from lamella.sweeps.fused.stack import NetworkStack
from lamella.sweeps.fused.width import choose_width
from lamella.sweeps.job import FUSED_NOTE
from lamella.training.machine_use import MachineUse
from lamella.training.trainer import quiet_lightning

ROUND = 2.0  # seconds after which the Trainers have their turn, to notice signals and to save
MEASURED_STEPS = 5  # with each width; the first of them is not counted


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
        if not runs:
            return status
        machine_use = MachineUse(runs[0][0].device.accelerator)
        with run_interrupts([writer for _, writer, _ in runs]) as interrupts, machine_use as machine:
            members = [
                FusedRun(experiment, partial(train_run, experiment, writer, interrupts, [FUSED_NOTE], machine), output)
                for experiment, writer, output in runs
            ]
            _train_members(members, paths[0].parent)
    return max([status, *(member.status for member in members)])


def _train_members(members: Sequence[FusedRun], directory: Path) -> None:
    """Let the Trainers and the steps take turns until all members are over.

    directory: that of the sweep.
    """
    width, shared = 0, SharedBatches()
    while members:
        for member in members:
            if member.batch is None:
                member.resume()
        members = [member for member in members if not member.over]
        if not members:
            return
        if not width:
            parameters = sum(parameter.numel() for parameter in members[0].task.network.parameters())
            measure = partial(_measured_seconds, members)
            width, reason = choose_width(directory, parameters, len(members), measure)
            for member in members:
                member.print(f"{width} network{'s' * (width > 1)} at once: {reason}")
        for member in members:
            # A network by itself gets its own batch, because a layer may change its input in place.
            member.share(shared if width > 1 else None)
        started = time.perf_counter()
        width, steps = _take_steps(members, width)
        if steps:
            length = ROUND * steps / (time.perf_counter() - started) / len(members)
            for member in members:
                member.set_chunk_length(max(1, int(length)))


def _take_steps(members: Sequence[FusedRun], width: int) -> tuple[int, int]:
    """Take the steps for which all members of a group have a batch, one group after another.

    Returns the width, which is smaller than before if so many networks cannot be computed as one, and the number of
    steps.
    """
    steps = 0
    for group in _groups(members, width):
        try:
            with _stacked(group, width) as stack:
                while all(member.batch for member in group) and len(_groups(group, width)) == 1:
                    if stack is not None:
                        _compute(group, stack)
                    for member in group:
                        member.step()
                    steps += len(group)
        except Exception as error:
            # If one of the members is the cause, it fails again when it is computed by itself.
            width = width // 2 if isinstance(error, torch.OutOfMemoryError) else 1
            for member in group:
                member.print(f"{len(group)} networks cannot be computed at once: {first_line(error)}")
            break
    _synchronize(members[0].task.device)
    return width, steps


def _groups(members: Sequence[FusedRun], width: int) -> list[Sequence[FusedRun]]:
    """Return the members in groups of at most `width`, each with batches of one shape.

    The last batch of an epoch may be smaller, and after an interruption the members are at different batches.
    """
    by_shape: dict[object, list[FusedRun]] = {}
    for member in members:
        inputs = member.batch[0] if member.batch else None
        by_shape.setdefault(inputs.shape if isinstance(inputs, torch.Tensor) else None, []).append(member)
    return [alike[start : start + width] for alike in by_shape.values() for start in range(0, len(alike), width)]


def _measured_seconds(members: Sequence[FusedRun], size: int) -> float:
    """Return the seconds that a network takes if `size` of them are computed as one, infinite if that is not possible.

    The gradients of the first batches are computed, and the members are left as they were.
    """
    group, seconds = _groups(members, size)[0], []
    # The time that one thread has computed, where there is one, because other processes may take turns with it.
    alone = group[0].task.device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    buffers = [(buffer, buffer.clone()) for member in group for buffer in member.task.network.buffers()]
    try:
        with _stacked(group, size) as stack:
            for _ in range(MEASURED_STEPS):
                started = clock()
                if stack is None:
                    group[0].compute_alone()
                else:
                    _compute(group, stack)
                _synchronize(group[0].task.device)
                seconds.append(clock() - started)
    except Exception as error:
        for member in group:
            member.print(f"{size} networks cannot be computed at once: {first_line(error)}")
        return math.inf
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        for member in group:
            member.computed = None
    return min(seconds[1:]) / len(group)  # the first one includes what torch prepares


def _synchronize(device: torch.device) -> None:
    """Wait until the device has computed everything, because otherwise the time of a kernel's start is measured."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@contextmanager
def _stacked(members: Sequence[FusedRun], width: int) -> Iterator[NetworkStack | None]:
    """Stack the networks of the members within the block, and flatten the parameters of their optimizers.

    Yields None if the width is 1, so that each network is computed by itself. Raises RuntimeError if the networks are
    not alike.
    """
    if width == 1:
        yield None
        return
    base = members[0].experiment.outline()
    networks = [member.task.network for member in members]
    objectives = [member.task.objective for member in members]
    if len(members) == 1:  # a stack of one would be computed by other kernels, which round in another way
        networks, objectives = [*networks, copy.deepcopy(networks[0])], objectives * 2
    stack = NetworkStack(networks, base, objectives)
    try:
        for member, values in zip(members, stack.rows, strict=False):
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
    batches = [member.batch for member in members] * (stack.count // len(members))
    inputs, targets = (torch.stack(tensors) for tensors in zip(*batches, strict=True))
    outputs = stack(inputs, [member.task.batch_seed() for member in members] if stack.generators else ())
    losses = stack.losses(outputs, targets)
    gradients = stack.gradients(losses)
    scores = stack.scores(outputs, targets)
    results = zip(losses.detach().unbind(), outputs.detach().unbind(), scores, gradients, strict=True)
    for member, computed in zip(members, results, strict=False):
        member.computed = computed
