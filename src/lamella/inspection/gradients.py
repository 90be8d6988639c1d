"""Run one forward and backward pass, and compare the gradients with finite differences."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.func import functional_call

from lamella.errors import RequestError, first_line
from lamella.training.task import Task

# How many samples and parameter entries the check uses. Each entry costs two forward passes in double precision.
SAMPLES, ENTRIES = 8, 30
STEP = 1e-6
KINK = 1e-3  # the largest relative distance between the differences to either side of a smooth point


Entry = tuple[str, int]  # the name of a parameter, and an index into its flattened values


@dataclass(frozen=True)
class Backward:
    """The result of a forward and a backward pass.

    output: of the network (B, …), with its graph. loss: a scalar, with its graph. parameters: by name. The `.grad` of a
    parameter is None where it is frozen or the loss does not depend on it.
    """

    output: Tensor
    loss: Tensor
    parameters: dict[str, nn.Parameter]


@dataclass(frozen=True)
class GradientCheck:
    """The comparison of gradients with finite differences.

    entries: how many entries of the parameters were compared. error: the largest difference. passed: the answer of
    `torch.autograd.gradcheck`. kinks: how many entries were left out because the loss has no derivative there, as where
    the input of a ReLU is exactly 0.
    """

    entries: int
    error: float
    passed: bool
    kinks: int


def backward(task: Task, inputs: Tensor, targets: Tensor) -> Backward:
    """Run forward, loss and backward as in a training step, on a copy of `task`, and return the result.

    Raises RequestError where the network cannot be trained on this batch.
    """
    task = copy.deepcopy(task)
    try:
        output = task.network(inputs)
        loss: Tensor = task.objective(output, targets)
    except ValueError as error:  # BatchNorm raises one for a batch of one sample
        raise RequestError(f"a step of training fails on this batch: {first_line(error)}", "data.batch_size") from error
    loss.backward()  # type: ignore[no-untyped-call]
    return Backward(output, loss, dict(task.network.named_parameters()))


def check_gradients(task: Task, inputs: Tensor, targets: Tensor, seed: int = 0) -> GradientCheck:
    """Compare the gradients with central differences, in double precision, on entries chosen by `seed`.

    The difference to either side of an entry shows whether the loss is smooth there; entries at a kink are left out.
    """
    task = copy.deepcopy(task).cpu().double()
    inputs, targets = (values[:SAMPLES].cpu() for values in (inputs, targets))
    inputs, targets = (values.double() if values.is_floating_point() else values for values in (inputs, targets))
    parameters = {name: value.detach() for name, value in task.network.named_parameters() if value.requires_grad}
    entries = _chosen_entries(parameters, seed)

    def loss(values: Tensor, entries: list[Entry]) -> Tensor:
        return _loss_at(task, inputs, targets, parameters, entries, values, seed)

    start = torch.stack([parameters[name].flatten()[index] for name, index in entries]).requires_grad_()
    [exact] = torch.autograd.grad(loss(start, entries), start)
    with torch.no_grad():
        here, steps = loss(start, entries), STEP * torch.eye(len(entries), dtype=torch.float64)
        after = torch.stack([loss(start + step, entries) - here for step in steps]) / STEP
        before = torch.stack([here - loss(start - step, entries) for step in steps]) / STEP
        smooth = (after - before).abs() <= KINK * (1 + after.abs())
    kinks = int((~smooth).sum())
    kept = [entry for entry, is_smooth in zip(entries, smooth.tolist(), strict=True) if is_smooth]
    if not kept:
        return GradientCheck(0, 0.0, True, kinks)
    error = float((exact - (after + before) / 2)[smooth].abs().max())
    values = start.detach()[smooth].requires_grad_()
    passed = bool(gradcheck(partial(loss, entries=kept), values, eps=STEP, raise_exception=False))
    return GradientCheck(len(kept), error, passed, kinks)


def _chosen_entries(parameters: Mapping[str, Tensor], seed: int) -> list[Entry]:
    """Return at most ENTRIES different entries, spread evenly over the parameters and drawn within each."""
    generator = torch.Generator().manual_seed(seed)
    names = list(parameters)
    entries: list[Entry] = []
    for number in range(min(ENTRIES, sum(value.numel() for value in parameters.values()))):
        name = names[number * len(names) // ENTRIES] if len(names) > ENTRIES else names[number % len(names)]
        entries.append((name, int(torch.randint(parameters[name].numel(), (), generator=generator))))
    return list(dict.fromkeys(entries))


def _loss_at(
    task: Task,
    inputs: Tensor,
    targets: Tensor,
    parameters: Mapping[str, Tensor],
    entries: Sequence[Entry],
    values: Tensor,
    seed: int,
) -> Tensor:
    """Return the loss with `values` in place of these entries of the parameters."""
    flat = {name: parameter.flatten().clone() for name, parameter in parameters.items()}
    for (name, index), value in zip(entries, values, strict=True):
        flat[name] = flat[name].index_put((torch.tensor(index),), value)
    state = {name: value.view(parameters[name].shape) for name, value in flat.items()}
    state |= {name: value.clone() for name, value in task.network.named_buffers()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # Dropout drops the same values at each call
        output = functional_call(task.network, state, (inputs,))
    loss: Tensor = task.objective(output, targets)
    return loss
