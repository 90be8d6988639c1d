"""A chunk's forward and backward passes as CUDA graphs, so that those of a small net do not wait for the host."""

from typing import Any

import torch
from torch import Tensor, nn

from lamella.data.chunk import Batch, Chunk
from lamella.errors import first_line
from lamella.network.structure import MODULE_HOOKS, network_signature
from lamella.seeds import reseed
from lamella.training.chunked_steps import chunk_steps, run_chunk
from lamella.training.losses import loss_targets
from lamella.training.task import Task

PLAIN = ("torch.nn.", "torchvision.")  # whose layers do the same in each pass, and Lamella's
WARM_UP = 3  # passes before a graph is captured, in which libraries make what they need
# How far what a graph gives may lie from what the network does, relative and absolute: it may take other kernels.
CLOSE = (1e-3, 1e-5)
SHARE = 1 / 3  # of the GPU's memory: a step that takes more is not captured, since a graph keeps what its step takes


class CudaGraphs:
    """Takes the steps of a task's chunks, with a graph that is captured again where something has changed.

    A graph is taken only after it has given, for the first batch, the loss and gradients that the network gives; where
    it does not or there can be none, this is printed, and the steps are taken without.
    """

    def __init__(self) -> None:
        self.known: list[Any] = []
        self.tried = False
        self.passes: _Passes | None = None

    def __reduce__(self) -> Any:
        return CudaGraphs, ()  # a copy of the task has other tensors

    def __call__(self, task: Task, chunk: Chunk) -> None:
        if task.trainer.accumulate_grad_batches > 1:  # where gradients are added to those that are there
            run_chunk(task, chunk)
            return
        modules = [*task.network.modules(), *task.loss.modules()]
        known: list[Any] = [
            network_signature(task.network),
            network_signature(task.loss),
            [getattr(one, "p", None) for one in modules],
        ]
        known += [one.data_ptr() for one in (*task.parameters(), *task.buffers())]
        if known != self.known:
            self.known, self.tried, self.passes = known, False, None

        def forward(batch: Batch) -> Tensor:
            passes = self._passes(task, batch)
            if passes is None:
                return task.training_step(batch, 0)
            task.reseed()
            loss, output = passes(batch)
            return task.counted(loss, output, batch[1], loss_targets(task.loss, output, batch[1]))

        def backward(loss: Tensor) -> None:
            if loss.requires_grad or self.passes is None:
                torch.autograd.backward(loss)
            else:
                self.passes.give()

        for _ in chunk_steps(task, chunk, forward, backward):
            pass

    def _passes(self, task: Task, batch: Batch) -> "_Passes | None":
        """Those for a batch like this one."""
        if not self.tried:
            self.tried = True
            try:
                self.passes = _Passes(task.network, task.loss, batch)
            except Exception as error:
                print(f"without a CUDA graph: {first_line(error)}")
        return self.passes if self.passes and self.passes.suit(batch) else None


class _Passes:
    """Both passes for batches as large as the one given. Raises what torch does, and RuntimeError."""

    def __init__(self, network: nn.Module, loss: nn.Module, batch: Batch) -> None:
        self.network, self.function = network, loss
        for part in (*network.modules(), *loss.modules()):
            if not type(part).__module__.startswith((*PLAIN, "lamella.")):
                raise RuntimeError(f"{type(part).__name__} may do something else in each pass")
            if any(getattr(part, key) for key in MODULE_HOOKS):
                raise RuntimeError(f"{type(part).__name__} has hooks, which a graph would not call")
        device = batch[0].device
        # What stays, as data and weights, is no step's.
        taken = torch.cuda.max_memory_allocated(device) - torch.cuda.memory_allocated(device)
        if taken > SHARE * torch.cuda.get_device_properties(device).total_memory:
            raise RuntimeError(f"a step takes {taken / 2**30:.1f} GiB of the GPU's memory, which a graph would keep")
        self.parameters = [one for one in network.parameters() if one.requires_grad]
        self.batch = [part.clone() for part in batch]  # the place for its inputs
        self.graph = torch.cuda.CUDAGraph()
        kept = [(buffer, buffer.clone()) for buffer in network.buffers()]  # running statistics, say
        try:
            reseed(0, device)
            expected = self._compute()
            side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UP):
                    self._compute()
            torch.cuda.current_stream().wait_stream(side)
            with torch.cuda.graph(self.graph):
                self.computed = self._compute()
            _restore(kept)
            reseed(0, device)
            self.graph.replay()
            if not all(map(_close, expected, self.computed)):
                raise RuntimeError("a graph gives something else than the network")
        finally:
            _restore(kept)

    def _compute(self) -> list[Tensor | None]:
        """The loss, the output and the gradients, which are None where the loss does not depend on a parameter."""
        inputs, targets = self.batch
        output = self.network(inputs)
        loss = self.function(output, loss_targets(self.function, output, targets))
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        return [loss.detach(), output.detach(), *gradients]

    def suit(self, batch: Batch) -> bool:
        return all(one.shape == other.shape for one, other in zip(batch, self.batch, strict=True))

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss and, until the next call, the network's output."""
        for place, part in zip(self.batch, batch, strict=True):
            place.copy_(part)
        self.graph.replay()
        loss, output, *_ = self.computed
        assert loss is not None
        assert output is not None
        return loss.clone(), output

    def give(self) -> None:
        """Let the parameters have their gradients, until the next call."""
        for parameter, gradient in zip(self.parameters, self.computed[2:], strict=True):
            parameter.grad = gradient


def _restore(kept: list[tuple[Tensor, Tensor]]) -> None:
    for buffer, before in kept:
        buffer.copy_(before)


def _close(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.allclose(one, other, *CLOSE, equal_nan=True)
