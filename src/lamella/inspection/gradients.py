"""One forward and backward pass: the loss, what lands in `.grad`, and whether finite differences agree."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.func import functional_call

from lamella.errors import RequestError, first_line
from lamella.training.losses import loss_targets
from lamella.training.task import Task

# What finite differences are taken on: each entry costs two forward passes in double precision.
SAMPLES, ENTRIES = 8, 30
STEP = 1e-6
KINK = 1e-3  # how far the differences to either side may be apart


@dataclass(frozen=True)
class Backward:
    """output: what the network gives (B, …), with its graph. loss: a scalar with its graph.

    parameters: with their `.grad`, which is None for one that is frozen or that the loss does not depend on.
    """

    output: Tensor
    loss: Tensor
    parameters: dict[str, nn.Parameter]


@dataclass(frozen=True)
class GradientCheck:
    """How the gradients compare with finite differences on `entries` entries of the parameters.

    error: the largest difference. passed: whether `torch.autograd.gradcheck` agrees. kinks: entries that were left out,
    because the loss has no derivative there, as where a ReLU gets exactly 0.
    """

    entries: int
    error: float
    passed: bool
    kinks: int


def backward(task: Task, inputs: Tensor, targets: Tensor) -> Backward:
    """Forward, loss and `backward()` as in a training step, on a copy: `task` stays as it is. Raises RequestError."""
    task = copy.deepcopy(task)
    try:
        output = task.network(inputs)
        loss: Tensor = task.loss(output, loss_targets(task.loss, output, targets))
    except ValueError as error:  # BatchNorm's, for a batch of one sample
        raise RequestError(f"a step of training fails on this batch: {first_line(error)}", "data.batch_size") from error
    loss.backward()  # type: ignore[no-untyped-call]
    return Backward(output, loss, dict(task.network.named_parameters()))


def check_gradients(task: Task, inputs: Tensor, targets: Tensor, seed: int = 0) -> GradientCheck:
    """Compare the gradients with central differences, in double precision, on entries chosen by `seed`."""
    task = copy.deepcopy(task).cpu().double()
    inputs, targets = (values[:SAMPLES].cpu() for values in (inputs, targets))
    inputs, targets = (values.double() if values.is_floating_point() else values for values in (inputs, targets))
    trained = {name: value.detach() for name, value in task.network.named_parameters() if value.requires_grad}
    generator = torch.Generator().manual_seed(seed)
    chosen: list[tuple[str, int]] = []
    names = list(trained)
    for number in range(min(ENTRIES, sum(value.numel() for value in trained.values()))):
        name = names[number * len(names) // ENTRIES] if len(names) > ENTRIES else names[number % len(names)]
        chosen.append((name, int(torch.randint(trained[name].numel(), (), generator=generator))))
    chosen = list(dict.fromkeys(chosen))

    def loss(values: Tensor) -> Tensor:
        parameters = {name: value.flatten().clone() for name, value in trained.items()}
        for (name, index), value in zip(chosen, values, strict=True):
            parameters[name] = parameters[name].index_put((torch.tensor(index),), value)
        state = {name: value.view(trained[name].shape) for name, value in parameters.items()}
        state |= {name: value.clone() for name, value in task.network.named_buffers()}
        # The same draws each time, for Dropout.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            output = functional_call(task.network, state, (inputs,))
        result: Tensor = task.loss(output, loss_targets(task.loss, output, targets))
        return result

    start = torch.stack([trained[name].flatten()[index] for name, index in chosen]).requires_grad_()
    [exact] = torch.autograd.grad(loss(start), start)
    with torch.no_grad():
        here, steps = loss(start), STEP * torch.eye(len(chosen), dtype=torch.float64)
        after = torch.stack([loss(start + step) - here for step in steps]) / STEP
        before = torch.stack([here - loss(start - step) for step in steps]) / STEP
        smooth = (after - before).abs() <= KINK * (1 + after.abs())
    kinks = int((~smooth).sum())
    chosen = [entry for entry, kept in zip(chosen, smooth.tolist(), strict=True) if kept]
    if not chosen:
        return GradientCheck(0, 0.0, True, kinks)
    error = float((exact - (after + before) / 2)[smooth].abs().max())
    passed = bool(gradcheck(loss, start.detach()[smooth].requires_grad_(), eps=STEP, raise_exception=False))
    return GradientCheck(len(chosen), error, passed, kinks)
