"""Build the scheduler of the learning rate, and the warm-up before it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, ReduceLROnPlateau

from lamella.config.targets import check_target, instantiate
from lamella.config.values import Config
from lamella.errors import RequestError, first_line
from lamella.torch_internals import ParamGroup

Scheduler = LRScheduler | ReduceLROnPlateau


@dataclass(frozen=True)
class Schedule:
    """Says how the learning rate changes during a run.

    make: called as make(optimizer, length), returns the scheduler. length: the number of optimizer steps of the run, or
    of its epochs with interval "epoch"; None if only time limits the run. interval: "epoch" or "step", how often the
    scheduler takes a step. warmup_steps: the number of optimizer steps over which the learning rate rises linearly,
    from a thousandth of the scheduled rate to the rate itself.
    """

    make: Callable[[Optimizer, int | None], Scheduler]
    interval: str = "epoch"
    warmup_steps: int = 0

    def warmup(self, step: int) -> float:
        """Return the factor of the learning rate in optimizer step `step`, counted from 0."""
        return min(1.0, 1e-3 + (1 - 1e-3) * step / self.warmup_steps) if self.warmup_steps else 1.0


@contextmanager
def scaled_rates(groups: Sequence[ParamGroup], factor: float) -> Iterator[None]:
    """Multiply the learning rates of an optimizer's parameter groups by `factor` within the block.

    The scheduled rates are put back afterwards, because most of torch's schedulers compute a rate from the one before.
    """
    rates = [group["lr"] for group in groups]
    for group in groups:
        group["lr"] = group["lr"] * factor
    try:
        yield
    finally:
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate


# The arguments that tell torch's schedulers how long the run is. If they are null, Lamella supplies the length.
LENGTHS = ("T_max", "total_steps", "total_iters")


def build_schedule(node: Config, make: Callable[..., Callable[..., Scheduler]]) -> Schedule:
    """Return the schedule that the config group `scheduler` describes.

    make: called with the arguments of the scheduler and the names of the arguments that are supplied later; returns
    a function that makes the scheduler. Raises RequestError for a value that is not allowed.
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
    parts = _parts(node.pop("schedulers", None))
    make_scheduler = make(node, supplied={"optimizer", *lengths, *(["schedulers"] if parts else [])})

    def make_for_length(optimizer: Optimizer, length: int | None) -> Scheduler:
        groups = optimizer.param_groups
        if lengths and length is None:
            key = f"scheduler.{lengths[0]}"
            raise RequestError(
                f"{key} is null, for the length of the run, which is not known; set it, "
                "trainer.max_epochs or trainer.max_steps",
                key,
            )
        # These schedulers set the same rate in all parameter groups, unless they are given a rate for each.
        rates = {
            name: [node[name] * group["lr"] / groups[0]["lr"] for group in groups]
            for name in ("base_lr", "max_lr")
            if len(groups) > 1 and groups[0]["lr"] and isinstance(node.get(name), int | float)
        }
        supplied = dict.fromkeys(lengths, length)
        inner = {"schedulers": [part(optimizer=optimizer) for part in parts]} if parts else {}
        return make_scheduler(optimizer=optimizer, **supplied, **rates, **inner)

    return Schedule(make_for_length, interval, warmup_steps)


def check_length(scheduler: Scheduler, length: int | None, interval: str) -> None:
    """Raise RequestError for a one-cycle schedule that is over before the run is.

    length: the number of steps that the scheduler takes in the run, None if it is not known. interval: their unit.
    """
    if isinstance(scheduler, OneCycleLR) and length is not None and scheduler.total_steps < length:
        raise RequestError(
            f"scheduler.total_steps: the schedule has {scheduler.total_steps} steps, and the run has {length} "
            f"({'optimizer steps' if interval == 'step' else 'epochs'}); null takes the length of the run",
            "scheduler.total_steps",
        )


def _parts(nodes: object) -> list[Callable[..., Scheduler]]:
    """Return functions that make the schedulers of a SequentialLR or a ChainedScheduler, each from an optimizer."""
    key = "scheduler.schedulers"
    if nodes is None:
        return []
    if not isinstance(nodes, list):
        raise RequestError(f"{key} is {nodes!r}; it takes a list of nodes with a `_target_`", key)
    for number, node in enumerate(nodes):
        check_target(node, f"{key}.{number}", LRScheduler, supplied={"optimizer"})
    return [partial(instantiate, node, f"{key}.{number}") for number, node in enumerate(nodes)]


def check_schedule(schedule: Schedule, node: Config, optimizers: Sequence[Optimizer]) -> None:
    """Try one step of the scheduler with each optimizer. Raise RequestError for what would fail in the run.

    node: the config group `scheduler`. optimizers: those of a run, which are not used afterwards.
    """
    rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    for name in ("base_lr", "max_lr"):
        if name in node and len(set(rates)) > 1:
            raise RequestError(
                f"scheduler.{name} is one rate for all optimizers, and theirs differ: {', '.join(map(str, rates))};\n"
                "  scheduler=cosine keeps the rate of each",
                f"scheduler.{name}",
            )
    for optimizer in optimizers:
        scheduler = schedule.make(optimizer, 1_000_000)
        if isinstance(scheduler, OneCycleLR) and schedule.warmup_steps:
            raise RequestError(
                "scheduler.warmup_steps: one_cycle warms up by itself; set scheduler.pct_start",
                "scheduler.warmup_steps",
            )
        if isinstance(scheduler, ReduceLROnPlateau) and schedule.interval == "step":
            raise RequestError(
                "scheduler.interval is 'step', but plateau follows val/loss, which comes once an epoch",
                "scheduler.interval",
            )
        if isinstance(scheduler, ReduceLROnPlateau) and len(optimizers) > 1:
            raise RequestError(
                "scheduler: plateau follows one loss, and each of several optimizers has its own; take "
                "scheduler=cosine or scheduler=step",
                "scheduler",
            )
        optimizer.step(lambda: 0.0)  # LBFGS takes no step without a closure
        try:
            scheduler.step(0) if isinstance(scheduler, ReduceLROnPlateau) else scheduler.step()
        except Exception as error:
            raise RequestError(f"scheduler: it cannot take a step: {first_line(error)}", "scheduler") from error
