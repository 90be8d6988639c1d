"""Train with the code that torch.compile makes of the forward and backward pass of a step."""

import os
import shlex
import shutil
import subprocess
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lamella.console import print
from lamella.data.chunk import Batch, Chunk, Served
from lamella.distributed import rank
from lamella.errors import first_line
from lamella.torch_internals import compile_with_gradients, hooks
from lamella.training.chunked_steps import chunk_steps, run_chunk
from lamella.training.gradients import Gradients, Passed, batch_shapes, kept_buffers, match, restore

if TYPE_CHECKING:
    from lamella.training.task import Task

Compute = Callable[[Served, Tensor], Passed]


class CompiledSteps(pl.Callback):
    """Computes the training batches of a task by compiled code, as long as that gives what the network gives.

    Batches that have the shapes of the first batch of the run are compiled. Others, such as a smaller last batch of an
    epoch, are computed by the network itself, because compiling takes longer than they do. The shapes are saved, so
    that a resumed run computes each batch in the way in which it would have been computed without an interruption.
    Where the loss, the output or a gradient of the first batch does not match that of the network, or where torch
    cannot compile it, a line is printed and no batch is compiled.

    It is a callback because Lightning saves the state of callbacks. mode: of torch.compile.
    """

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.shapes: list[list[int]] = []
        self.failure, self.seconds = "", 0.0
        self.settled = False  # whether the run has compared the code with the network before it was interrupted
        self.parameters: list[nn.Parameter] = []  # of the network
        self.trained: list[bool] = []  # which of them are trained by the compiled code
        self.hooks: list[dict[Any, Any]] = []  # of all modules
        self.gradients: Gradients | None = None
        self.compiled: Compute | None = None

    def __reduce__(self) -> tuple[type["CompiledSteps"], tuple[str]]:
        return CompiledSteps, (self.mode,)  # a copy of the task has another network

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the shapes, why nothing is compiled, and the seconds that compiling took."""
        return {"shapes": self.shapes, "failure": self.failure, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.shapes:  # after the training, for the test
            return
        vars(self).update(state_dict)
        self.settled = bool(self.shapes) and not self.failure
        if self.failure and rank() == 0:
            print(f"without compiled steps: {self.failure}")

    def results(self, task: "Task", batch: Batch) -> dict[str, Tensor] | None:
        """Return what `Task.step` returns for a batch, whose loss can be differentiated; None if it is not compiled."""
        if (computed := self._compute(task, batch)) is None:
            return None
        loss, output, *gradients = computed
        assert self.gradients
        assert output is not None
        return {"loss": _WithGradients.apply(loss, gradients, *self.gradients.parameters), "output": output}

    def run_chunk(self, task: "Task", chunk: Chunk) -> None:
        """Train all batches of a chunk but the last one."""
        # Autograd, which would add up the gradients, takes a quarter of the time of a step of a small network.
        if task.trainer.accumulate_grad_batches > 1:
            run_chunk(task, chunk)
            return
        gradients: list[Tensor | None] = []

        def forward(batch: Batch) -> Tensor:
            task.reseed()
            if (computed := self._compute(task, batch)) is None:
                return task.training_step(batch, 0)
            loss, output, *gradients[:] = computed
            assert loss is not None
            assert output is not None
            return task.counted({"loss": loss, "output": output}, batch[1])

        def backward(loss: Tensor) -> None:
            if loss.requires_grad:
                torch.autograd.backward(loss)
                return
            assert self.gradients
            for parameter, gradient in zip(self.gradients.parameters, gradients, strict=True):
                parameter.grad = gradient

        for _ in chunk_steps(task, chunk, forward, backward):
            pass

    def function(self, task: "Task", batch: Batch) -> Compute | None:
        """Return the compiled code for a batch, None if it is not compiled. The first call compiles."""
        if self.failure or (self.shapes and batch_shapes(batch) != self.shapes):
            return None
        if self.compiled is None or self.trained != [parameter.requires_grad for parameter in self.parameters]:
            self._compile(task, batch)
        return None if any(self.hooks) else self.compiled

    def _compute(self, task: "Task", batch: Batch) -> Passed | None:
        """Return the results of the compiled code for a batch, None if it is not compiled."""
        if (function := self.function(task, batch)) is None:
            return None
        try:
            return function(*batch)
        except Exception:
            # Torch compiles again where something has changed, but only a few times; then it begins anew.
            self._compile(task, batch)
            return self.compiled(*batch) if self.compiled else None

    def _compile(self, task: "Task", batch: Batch) -> None:
        """Compile the code for batches of these shapes, and compare what it computes with the network."""
        started, self.compiled = time.perf_counter(), None
        self.shapes, self.parameters = batch_shapes(batch), list(task.network.parameters())
        self.trained = [parameter.requires_grad for parameter in self.parameters]
        self.gradients = gradients = Gradients(task.network, task.objective)
        self.hooks = [found for module in (*task.network.modules(), *task.loss.modules()) for found in hooks(module)]
        try:
            if any(self.hooks):
                raise RuntimeError("the network has hooks, which compiled code would not call")
            with kept_buffers(task.network, task.loss) as saved, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch advises on precision and compilers
                expected = gradients(*batch)
                restore(saved)
                task.reseed()
                self.compiled = compile_with_gradients(gradients, self.mode)
                if not match(expected, self.compiled(*batch)) and not self.settled:
                    raise RuntimeError("compiled code gives something else than the network")
                _check_unchanged(self.compiled, batch)
        except Exception as error:
            self._give_up(first_line(error))
            return
        finally:
            torch.clear_autocast_cache()
            task.reseed()
        seconds = time.perf_counter() - started
        self.seconds += seconds
        task.leave_out(seconds)
        if rank() == 0:
            print(f"compiled in {seconds:.1f} s")

    def _give_up(self, reason: str) -> None:
        self.failure, self.compiled = reason, None
        if rank() == 0:
            print(f"without compiled steps: {reason}")


def _check_unchanged(compiled: Compute, batch: Batch) -> None:
    """Raise RuntimeError where a second call would compile again, as for a layer that counts its calls."""
    try:
        with torch.compiler.set_stance("fail_on_recompile"):
            compiled(*batch)
    except RuntimeError as error:
        raise RuntimeError("the network or the loss has attributes that change in each step") from error


class _WithGradients(torch.autograd.Function):
    """Gives a loss the gradients that have been computed with it, so that autograd accumulates and exchanges them."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor | None], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.view_as(loss)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *(None if one is None else one * scale for one in ctx.gradients))


def compiler() -> str:
    """Return the C++ compiler that torch uses, with its version, or "none". Compilers may round in another way."""
    path = shutil.which((shlex.split(os.environ.get("CXX", "")) or ["g++"])[-1])  # after a wrapper such as ccache
    if path is None:
        return "none"
    return subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout.partition("\n")[0]
