"""The one LightningModule: network and loss, the optimizer, and the metrics of each epoch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, ReduceLROnPlateau

from lamella.errors import RequestError, first_line


@dataclass(frozen=True)
class Schedule:
    """How the learning rate moves.

    make: called as make(optimizer, length), where length is the run's number of optimizer steps or, with interval
    "epoch", of epochs; None where only time limits the run. warmup_steps: optimizer steps over which the rate rises
    linearly, from nearly nothing to what the schedule gives.
    """

    make: Callable[[Optimizer, int | None], LRScheduler | ReduceLROnPlateau]
    interval: str = "epoch"
    warmup_steps: int = 0

    def warmup(self, step: int) -> float:
        """The factor by which optimizer step `step`, counted from 0, takes its learning rate."""
        return min(1.0, 1e-3 + (1 - 1e-3) * step / self.warmup_steps) if self.warmup_steps else 1.0


# The arguments by which torch's schedulers are told how long the run is; left null, they are.
LENGTHS = ("T_max", "total_steps", "total_iters")


def build_schedule(node: Mapping[str, Any], make: Callable[..., Callable[..., Any]]) -> Schedule:
    """The schedule that a config describes.

    make: called with the scheduler's own arguments and the names of those that are supplied later, gives what makes
    the scheduler. Raises RequestError.
    """
    node = dict(node)
    interval, warmup_steps = node.pop("interval", "epoch"), node.pop("warmup_steps", 0)
    if interval not in ("epoch", "step"):
        raise RequestError(f"scheduler.interval is {interval!r}; it takes epoch or step", "scheduler.interval")
    if not isinstance(warmup_steps, int) or warmup_steps < 0:
        raise RequestError(
            f"scheduler.warmup_steps is {warmup_steps!r}; it takes a number of optimizer steps",
            "scheduler.warmup_steps",
        )
    lengths = [name for name in LENGTHS if name in node and node[name] is None]
    for name in lengths:
        del node[name]
    make_scheduler = make(node, supplied={"optimizer", *lengths})

    def of_length(optimizer: Optimizer, length: int | None) -> Any:
        if lengths and length is None:
            key = f"scheduler.{lengths[0]}"
            raise RequestError(f"{key} is null, for the whole run, which has no end; set it or trainer.max_epochs", key)
        return make_scheduler(optimizer=optimizer, **dict.fromkeys(lengths, length))

    return Schedule(of_length, interval, warmup_steps)


def check_schedule(schedule: Schedule, optimizer: Optimizer) -> None:
    """Take one step, with an optimizer that is thrown away, and raise RequestError for what would fail in the run."""
    scheduler = schedule.make(optimizer, 10)
    if isinstance(scheduler, OneCycleLR) and schedule.warmup_steps:
        raise RequestError(
            "scheduler.warmup_steps: one_cycle warms up by itself; set scheduler.pct_start", "scheduler.warmup_steps"
        )
    if isinstance(scheduler, ReduceLROnPlateau) and schedule.interval == "step":
        raise RequestError(
            "scheduler.interval is 'step', but plateau follows val/loss, which comes once an epoch",
            "scheduler.interval",
        )
    optimizer.step(lambda: 0.0)  # LBFGS takes no step without a closure
    try:
        scheduler.step(0) if isinstance(scheduler, ReduceLROnPlateau) else scheduler.step()
    except Exception as error:
        raise RequestError(f"scheduler: it cannot take a step: {first_line(error)}", "scheduler") from error
