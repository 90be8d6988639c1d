"""Measure where the time of a training step goes, for `trainer.profile`: a few steps after a warm-up, and no others."""

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.profilers import Profiler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.profiler import ProfilerActivity, profile, record_function

from lamella.atomic_files import replacing, write_atomically
from lamella.console import print
from lamella.lightning_internals import FETCH, batch_index, batches_until_validation
from lamella.runs.files import PROFILE, TRACE
from lamella.tables import format_table
from lamella.training.task import Task

MOST = 10  # batches of the warm-up, of those that are timed, and of those that are traced; fewer in a short run
OPERATORS = 10  # how many of them are listed
PARTS = ("data", "forward", "loss", "backward", "optimizer")


class StepProfile(pl.Callback):
    """A callback that times the parts of some training batches, and traces as many after them with torch.profiler.

    Batches are timed without torch.profiler, which takes time itself. On a GPU, they are timed with a synchronization
    between the parts. directory: of the run, into which PROFILE and TRACE are written. The attribute `over` says
    whether the profile is done; until then, batches have to be trained one by one.
    """

    def __init__(self, directory: Path) -> None:
        self.directory, self.over = directory, False
        self.each, self.done, self.started, self.waits = 0, 0, 0.0, False
        self.seconds = dict.fromkeys((*PARTS, "step"), 0.0)
        self.running: dict[str, tuple[float, ExitStack]] = {}  # the parts that have begun
        self.steps: list[int] = []  # the numbers of the steps of the batches that are timed and traced
        self.closing = ExitStack()  # removes what is only there for the profile
        self.tracer: profile | None = None

    def limited(self, length: Callable[[int], int]) -> Callable[[int], int]:
        """Return a function that gives the length of a chunk: 1 until the profile is over, then that of `length`."""
        return lambda number: length(number) if self.over else 1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Decide which batches are profiled, and listen to the parts of a step."""
        epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs or 0
        batches = (epochs - trainer.current_epoch) * trainer.num_training_batches
        if trainer.max_steps >= 0:
            batches = min(batches, (trainer.max_steps - trainer.global_step) * trainer.accumulate_grad_batches)
        # All of them are in one epoch, so that there is no validation between them.
        between = min(trainer.num_training_batches, trainer.val_check_batch or math.inf)  # two validations
        self.each = int(min(MOST, max(1, between / 3)))
        self.device = trainer.strategy.root_device
        if batches < 3 * self.each:
            self.over = True
            print(f"trainer.profile: the run has {batches} batches left, and a profile takes {3 * self.each}")
            return
        self.trainer, before = trainer, trainer.profiler  # type: ignore[attr-defined]
        trainer.profiler = _Fetches(self)  # type: ignore[attr-defined]
        self.closing.callback(setattr, trainer, "profiler", before)
        if isinstance(pl_module, Task):
            for name, module in (("forward", pl_module.network), ("loss", pl_module.loss)):
                self._listen(name, module)
        for optimizer in trainer.optimizers:
            self.closing.callback(optimizer.register_step_post_hook(lambda *_: self.end("optimizer")).remove)

    def _listen(self, name: str, module: nn.Module) -> None:
        self.closing.callback(module.register_forward_pre_hook(lambda *_: self.begin(name)).remove)
        self.closing.callback(module.register_forward_hook(lambda *_: self.end(name)).remove)

    @property
    def is_timed(self) -> bool:
        """Return whether the present batch is timed."""
        return self.each <= self.done < 2 * self.each

    def begin(self, name: str) -> None:
        """Begin a part of a step."""
        if self.over or self.waits or self.done < self.each:
            return
        stack = ExitStack()
        if not self.is_timed:
            stack.enter_context(record_function(name))
        self.running[name] = self._now(), stack

    def end(self, name: str) -> None:
        """End a part of a step, if it has begun."""
        if name in self.running:
            started, stack = self.running.pop(name)
            self.seconds[name] += (self._now() - started) * self.is_timed
            stack.close()

    def begin_batch(self) -> None:
        """Begin to fetch a batch, or wait for the next epoch if a validation would come among those to be profiled."""
        number = batch_index(self.trainer) + 1
        left = min(self.trainer.num_training_batches - number, batches_until_validation(self.trainer, number))
        self.waits = self.done in (self.each, 2 * self.each) and left < self.each
        if self.waits:
            return
        if self.done == 2 * self.each and self.tracer is None:
            # It would report on standard error that it has begun, and that there is no GPU.
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.device.type == "cuda" else [])]
            self.tracer = profile(activities=activities)
            self.tracer.start()
        self.started = self._now()
        self.begin("data")

    def on_train_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
        if not (self.over or self.waits) and self.done >= self.each:
            self.steps.append(trainer.global_step + 1)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        self.begin("backward")

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.end("backward")

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        self.begin("optimizer")

    def on_train_batch_end(self, *_: object) -> None:
        if self.over or self.waits:
            return
        self.seconds["step"] += (self._now() - self.started) * self.is_timed
        self.done += 1
        if self.done == 3 * self.each:
            self._finish()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.over:
            print(f"trainer.profile: the run has ended after {self.done} batches, before its profile was done")
            self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._close()

    def _now(self) -> float:
        """Return the time, on a GPU once its work is done where batches are timed."""
        if self.is_timed and self.device.type in ("cuda", "mps"):
            getattr(torch, self.device.type).synchronize()
        return time.perf_counter()

    def _close(self) -> None:
        """End the profile, and remove all that was only there for it."""
        self.over = True
        self.closing.close()
        if self.tracer:
            self.tracer.stop()

    def _finish(self) -> None:
        """Write and print the profile."""
        self._close()
        assert self.tracer
        with replacing(self.directory / TRACE) as temporary:
            self.tracer.export_chrome_trace(str(temporary))
        timed, traced = self.steps[: self.each], self.steps[self.each :]
        text = "\n".join(
            [
                f"where the time of a batch goes (mean of steps {timed[0]} to {timed[-1]}, trained without chunks)",
                self._parts_table(),
                f"operators that take the most time (steps {traced[0]} to {traced[-1]}, traced by torch.profiler)",
                _operators_table(self.tracer, self.each, self.device.type),
            ]
        )
        write_atomically(self.directory / PROFILE, f"{text}\n")
        print(f"{text}\nkept in {self.directory / PROFILE}, and the trace in {self.directory / TRACE}")
        self.tracer = None

    def _parts_table(self) -> str:
        """Return the time of each part of a step, the rest and the whole as a table."""
        parts = {name: seconds for name, seconds in self.seconds.items() if seconds}
        whole = parts.pop("step")
        parts |= {"the rest": whole - sum(parts.values()), "a batch": whole}
        rows = [[name, f"{1e3 * value / self.each:.3f}", f"{value / whole:.0%}"] for name, value in parts.items()]
        return format_table([["part", "ms", "share"], *rows])


class _Fetches(Profiler):
    """Tells a profile when Lightning begins and ends to fetch a training batch."""

    def __init__(self, owner: StepProfile) -> None:
        super().__init__()
        self.owner = owner

    def start(self, action_name: str) -> None:
        if action_name.endswith(FETCH):
            self.owner.begin_batch()

    def stop(self, action_name: str) -> None:
        if action_name.endswith(FETCH):
            self.owner.end("data")

    @contextmanager
    def profile(self, action_name: str) -> Iterator[str]:
        yield action_name


def _operators_table(tracer: profile, batches: int, device: str) -> str:
    """Return the operators that take the most time as a table, of a GPU by its time. batches: how many are traced."""
    on_gpu = device == "cuda"
    # Kernels of a GPU are counted to the operators that have started them.
    averages: Any = tracer.key_averages()
    events = [event for event in averages if event.device_type.name == "CPU" and event.key not in PARTS]
    key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    events.sort(key=lambda event: getattr(event, key), reverse=True)
    whole = sum(getattr(event, key) for event in events) or 1.0
    times = [(event, getattr(event, key)) for event in events[:OPERATORS]]
    rows = [
        [event.key, f"{event.count / batches:g}", f"{taken / batches / 1e3:.3f}", f"{taken / whole:.0%}"]
        for event, taken in times
    ]
    return format_table([["operator", "calls", f"ms on {'the GPU' if on_gpu else 'the CPU'}", "share"], *rows])
