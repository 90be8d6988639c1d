"""Compute the forward and backward pass of a training step as one function, which can be captured or compiled."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lamella.data.chunk import Batch, Served
from lamella.training.objective import Objective

# How much captured or compiled passes may differ from the eager ones, since they may use other kernels, and some add up
# in any order: as a share of the length of a vector, and for each of its numbers.
TOLERANCE = (1e-3, 1e-5)

Passed = list[Tensor | None]  # the loss, the output, and a gradient for each parameter


class Gradients:
    """Computes the loss, the output and the gradients of a batch, as the step of a Task does.

    The attribute `parameters` holds those of the network that are trained now.
    """

    def __init__(self, network: nn.Module, objective: Objective) -> None:
        self.network, self.objective = network, objective
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]

    def __call__(self, inputs: Served, targets: Tensor) -> Passed:
        """Return the loss, the output, and the gradients, None for parameters that the loss does not depend on.

        inputs (B, …), targets (B, …): of a batch.
        """
        output = self.network(inputs)
        loss = self.objective(output, targets)
        with torch.autocast(targets.device.type, enabled=False):  # which is for the forward pass alone
            gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        return [loss.detach(), output.detach(), *map(_in_same_format, gradients, self.parameters)]


def batch_shapes(batch: Batch) -> list[list[int]]:
    """Return the shapes of the inputs and of the targets of a batch."""
    inputs, targets = batch
    return [list(one.shape) for one in (*(inputs.values() if isinstance(inputs, dict) else [inputs]), targets)]


@contextmanager
def kept_buffers(*modules: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Put the buffers of a network and a loss, such as running statistics, back at the end of the block.

    Yields them with their values, for `restore`.
    """
    saved = [(buffer, buffer.clone()) for module in modules for buffer in module.buffers()]
    try:
        yield saved
    finally:
        restore(saved)


def restore(saved: list[tuple[Tensor, Tensor]]) -> None:
    """Put values back into the tensors that they were saved from."""
    with torch.no_grad():
        for tensor, values in saved:
            tensor.copy_(values)


def match(expected: Passed, computed: Passed) -> bool:
    """Return True if the results of two passes are equal within TOLERANCE."""
    return len(expected) == len(computed) and all(map(_close, expected, computed))


def _in_same_format(gradient: Tensor | None, parameter: Tensor) -> Tensor | None:
    """Return a gradient with the strides of its parameter, as `backward` gives it and the kernels of optimizers ask."""
    if gradient is None or gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def _close(expected: Tensor | None, computed: Tensor | None) -> bool:
    """Return True if two vectors are equal within TOLERANCE, as a whole: single numbers may be near to 0."""
    if expected is None or computed is None:
        return expected is computed
    length, difference = expected.norm(), (expected - computed).norm()
    return bool(difference <= TOLERANCE[0] * length + TOLERANCE[1] * expected.numel() ** 0.5)
