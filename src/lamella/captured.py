"""A chunk's forward and backward passes as CUDA graphs, so that a small net's do not wait for the host."""

from typing import Any

import torch
from torch import Tensor, nn

from lamella import chunks, losses
from lamella.chunks import Batch, Chunk
from lamella.errors import first_line
from lamella.seeds import reseed
from lamella.task import Task

PLAIN = ("torch.nn.", "torchvision.", "lamella.")  # whose layers do the same in each pass
# How far what a graph gives may lie from what the network does, relative and absolute: it may take other kernels.
CLOSE = (1e-3, 1e-5)
Kept = list[tuple[Tensor, Tensor]]  # tensors, and what they held


class Graphs:
    """Takes the steps of a task's chunks. Until something changes that a graph has captured, it is captured once.

    A graph is taken only after it has given, for the first batch, the loss and gradients that the network gives; where
    it does not or there can be none, this is printed, and the steps are taken without.
    """

    def __init__(self) -> None:
        self.known: list[Any] = []
        self.passes: _Passes | None = None

    def __call__(self, task: Task, chunk: Chunk) -> None:
        network, tried = task.network, True
        tensors = [*network.parameters(), *network.buffers()]
        known: list[Any] = [(one.data_ptr(), one.requires_grad) for one in tensors]
        known += [part.training for part in network.modules()]
        if known != self.known:
            self.known, self.passes, tried = known, None, False

        def forward(batch: Batch) -> Tensor:
            nonlocal tried
            if not tried:
                tried = True
                try:
                    self.passes = _Passes(network, task.loss, batch)
                except Exception as error:
                    print(f"without a CUDA graph: {first_line(error)}")
            if self.passes is None or not self.passes.suit(batch):
                return task.training_step(batch, 0)
            task.reseed()
            loss, output = self.passes(batch)
            return task.counted(loss, output, batch[1], losses.targets_for(task.loss, output, batch[1]))

        if task.trainer.accumulate_grad_batches > 1:  # what is added to would be the graph's own gradients
            chunks.run(task, chunk)
            return
        for _ in chunks.steps(task, chunk, forward, Tensor.backward):
            pass


class _Judged(nn.Module):
    def __init__(self, network: nn.Module, loss: nn.Module) -> None:
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        output = self.network(inputs)
        return self.loss(output, losses.targets_for(self.loss, output, targets)), output.detach()


class _Passes:
    """Both passes for batches as large as the one given. Raises what torch does, and RuntimeError."""

    def __init__(self, network: nn.Module, loss: nn.Module, batch: Batch) -> None:
        self.judged = _Judged(network, loss)
        self.shapes = [part.shape for part in batch]
        for part in self.judged.modules():
            if not type(part).__module__.startswith(PLAIN):
                raise RuntimeError(f"{type(part).__name__} may do something else in each pass")
            if part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks:
                raise RuntimeError(f"{type(part).__name__} has hooks, which a graph would not call")
        kept = [(buffer, buffer.clone()) for buffer in self.judged.buffers()]  # running statistics, say
        try:
            expected = self._gradients(batch, kept)
            samples = tuple(part.clone() for part in batch)  # which the graph keeps, as the place for its inputs
            torch.cuda.make_graphed_callables(self.judged, samples, allow_unused_input=True)
            if not all(map(_close, expected, self._gradients(batch, kept))):
                raise RuntimeError("a graph gives other gradients than the network")
        finally:
            _restore(kept)

    def _gradients(self, batch: Batch, kept: Kept) -> list[Tensor]:
        """The loss, the output and the gradients, from the same random numbers and buffers each time."""
        _restore(kept)
        reseed(0, batch[0].device)
        loss, output = self.judged(*batch)
        parameters = [one for one in self.judged.parameters() if one.requires_grad]
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        return [one.detach().clone() for one in (loss, output, *found) if one is not None]

    def suit(self, batch: Batch) -> bool:
        return [part.shape for part in batch] == self.shapes

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss and, until the next call, the network's output."""
        loss, output = self.judged(*batch)
        return loss.clone(), output


def _restore(kept: Kept) -> None:
    for buffer, before in kept:
        buffer.copy_(before)


def _close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, *CLOSE, equal_nan=True)
