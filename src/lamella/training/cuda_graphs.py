"""Run the passes of a chunk as a CUDA graph, so that a small network does not wait for the host."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lamella.console import print
from lamella.data.chunk import Batch, Chunk, Served
from lamella.errors import first_line
from lamella.network.structure import network_signature
from lamella.seeds import reseed
from lamella.torch_internals import hook_counts
from lamella.training.chunked_steps import chunk_steps, run_chunk
from lamella.training.compiled_steps import CompiledSteps
from lamella.training.gradients import Gradients, Passed, kept_buffers, match, restore
from lamella.training.task import Task

# The packages whose layers do the same in each pass, beside those of Lamella.
SAME_IN_EACH_PASS = ("torch.nn.", "torchvision.")
WARM_UP = 3  # eager passes before a graph is captured, in which libraries allocate what they need
MEMORY_SHARE = 1 / 3  # of the GPU's memory: a larger step is not captured, because its graph would keep that memory


class CudaGraphs:
    """Trains the chunks of a task with a CUDA graph, which is captured again when the network or the loss has changed.

    A graph is used only if its loss and gradients for the first batch match the eager ones. Otherwise a line is printed
    and the steps run eagerly. compiled: compiles what is captured, None to capture the kernels of the network itself.
    """

    def __init__(self, compiled: CompiledSteps | None = None) -> None:
        self.compiled = compiled
        self.fingerprint: list[object] = []  # of everything that a graph depends on
        self.tried = False
        self.passes: _Passes | None = None

    def __reduce__(self) -> tuple[type["CudaGraphs"], tuple[CompiledSteps | None]]:
        return CudaGraphs, (self.compiled,)  # a copy of the task has other tensors, so its graph must be captured anew

    def __call__(self, task: Task, chunk: Chunk) -> None:
        """Train all batches of a chunk but the last one."""
        # A graph replaces gradients and cannot add to them, and it is made of the network and the loss alone.
        if task.trainer.accumulate_grad_batches > 1 or task.has_own_step:
            run_chunk(task, chunk)
            return
        fingerprint = _fingerprint(task)
        if fingerprint != self.fingerprint:
            self.fingerprint, self.tried, self.passes = fingerprint, False, None

        def forward(batch: Batch) -> Tensor:
            passes = self._passes_for(task, batch)
            if passes is None:
                return task.training_step(batch, 0)
            # The layers of a graph draw from no other generator.
            torch.cuda.manual_seed(task.batch_seed())
            loss, output = passes(batch)
            return task.counted({"loss": loss, "output": output}, batch[1])

        def backward(loss: Tensor) -> None:
            if loss.requires_grad or self.passes is None:
                torch.autograd.backward(loss)
            else:
                self.passes.set_gradients()

        for _ in chunk_steps(task, chunk, forward, backward):
            pass

    def _passes_for(self, task: Task, batch: Batch) -> "_Passes | None":
        """Return the captured passes for batches of this shape, or None if there are none."""
        if not self.tried:
            self.tried = True
            try:
                gradients = Gradients(task.network, task.objective)
                compiled = self.compiled.function(task, batch) if self.compiled else None
                self.passes = _Passes(gradients, compiled or gradients, batch)
            except Exception as error:
                print(f"without a CUDA graph: {first_line(error)}")
        return self.passes if self.passes and self.passes.match(batch) else None


def _fingerprint(task: Task) -> list[object]:
    """Return values that change whenever a captured graph would no longer compute the same as the network."""
    modules = (*task.network.modules(), *task.loss.modules())
    return [
        network_signature(task.network),
        network_signature(task.loss),
        [getattr(module, "p", None) for module in modules],  # the rates of Dropout, which are not in the signature
        *(tensor.data_ptr() for tensor in (*task.parameters(), *task.buffers())),
    ]


class _Passes:
    """The forward and backward pass for batches of one shape, captured as a CUDA graph.

    gradients: computes both eagerly. compute: what is captured, which is that or code compiled of it. Raises
    RuntimeError where the network or the loss cannot be captured, and whatever torch raises.
    """

    def __init__(self, gradients: Gradients, compute: Callable[[Served, Tensor], Passed], batch: Batch) -> None:
        self.eager, self.compute, self.parameters = gradients, compute, gradients.parameters
        inputs, targets = batch
        if not isinstance(inputs, Tensor):
            raise RuntimeError("the network takes several inputs")
        for module in (*gradients.network.modules(), *gradients.objective.loss.modules()):
            _check_module(module)
        _check_memory(inputs.device)
        self.inputs, self.targets = inputs.clone(), targets.clone()  # the graph reads each batch from here
        self.graph = torch.cuda.CUDAGraph()
        with kept_buffers(gradients.network) as saved, _recovering(inputs.device):
            self._capture(saved, inputs.device)

    def _capture(self, saved: list[tuple[Tensor, Tensor]], device: torch.device) -> None:
        """Capture the graph, and compare what it computes with the eager network."""
        reseed(0, device)
        expected = self.eager(self.inputs, self.targets)
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self.compute(self.inputs, self.targets)
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(self.graph):
            self.computed = self.compute(self.inputs, self.targets)
        restore(saved)
        reseed(0, device)
        self.graph.replay()
        if not match(expected, self.computed):
            raise RuntimeError("a graph gives something else than the network")

    def match(self, batch: Batch) -> bool:
        """Return True if the graph is for batches of this shape."""
        inputs, targets = batch
        assert isinstance(inputs, Tensor)
        return inputs.shape == self.inputs.shape and targets.shape == self.targets.shape

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Run both passes, and return the loss and the network's output. The next call overwrites the output."""
        inputs, targets = batch
        assert isinstance(inputs, Tensor)
        self.inputs.copy_(inputs)
        self.targets.copy_(targets)
        self.graph.replay()
        loss, output, *_ = self.computed
        assert loss is not None
        assert output is not None
        return loss.clone(), output

    def set_gradients(self) -> None:
        """Set the gradients of the parameters to those of the last call, which the next call overwrites."""
        for parameter, gradient in zip(self.parameters, self.computed[2:], strict=True):
            parameter.grad = gradient


def _check_module(module: nn.Module) -> None:
    """Raise RuntimeError for a module whose forward pass may change from one pass to the next, or that has hooks."""
    name = type(module).__name__
    if not type(module).__module__.startswith((*SAME_IN_EACH_PASS, "lamella.")):
        raise RuntimeError(f"{name} may do something else in each pass")
    if any(hook_counts(module)):
        raise RuntimeError(f"{name} has hooks, which a graph would not call")


def _check_memory(device: torch.device) -> None:
    """Raise RuntimeError if a step takes more than MEMORY_SHARE of the GPU's memory, beside data and weights."""
    taken = torch.cuda.max_memory_allocated(device) - torch.cuda.memory_allocated(device)
    if taken > MEMORY_SHARE * torch.cuda.get_device_properties(device).total_memory:
        raise RuntimeError(f"a step takes {taken / 2**30:.1f} GiB of the GPU's memory, which a graph would keep")


@contextmanager
def _recovering(device: torch.device) -> Iterator[None]:
    """Put the stream and the generator of the device back if a capture fails, which leaves them as in a capture."""
    generator, stream = torch.cuda.default_generators[device.index or 0], torch.cuda.current_stream()
    state = generator.clone_state()
    try:
        yield
    except Exception:
        torch.cuda.set_stream(stream)
        generator.graphsafe_set_state(state)
        raise
