"""Build the scheduler of the learning rate, and the warm-up before it."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, ReduceLROnPlateau

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


class MakeTarget(Protocol):
    """Makes a function of a key of the config, the arguments below it, and the names of those supplied later."""

    def __call__(self, key: str, /, *, node: Config, supplied: Collection[str]) -> Callable[..., Scheduler]: ...


def build_schedule(node: Config, make: MakeTarget) -> Schedule:
    """Return the schedule that the config group `scheduler` describes.

    make: called with a key, the arguments of a scheduler below it, and the names of the arguments that are supplied
    later; returns a function that makes the scheduler. Raises RequestError for a value that is not allowed.
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
    unit = "optimizer steps" if interval == "step" else "epochs"
    return Schedule(_maker("scheduler", node, make, unit), interval, warmup_steps)


def _maker(key: str, node: Config, make: MakeTarget, unit: str) -> Callable[[Optimizer, int | None], Scheduler]:
    """Return the function that makes a scheduler from an optimizer and the number of its steps.

    key: of its node in the config. unit: of its steps, for messages. Raises RequestError for a value that is not
    allowed, and the function where it needs the number of steps, and that is not known.
    """
    node = dict(node)
    lengths = [name for name in LENGTHS if name in node and node[name] is None]
    for name in lengths:
        del node[name]
    parts, place = node.pop("schedulers", None), f"{key}.schedulers"
    if parts is not None and not (isinstance(parts, list) and all(isinstance(part, Mapping) for part in parts)):
        raise RequestError(f"{place} is {parts!r}; it takes a list of nodes with a `_target_`", place)
    makers = [_maker(f"{place}.{number}", part, make, unit) for number, part in enumerate(parts or [])]
    supplied_later = {"optimizer", *lengths, *(["schedulers"] if parts else [])}
    make_scheduler = make(key, node=node, supplied=supplied_later)

    def make_for_length(optimizer: Optimizer, length: int | None) -> Scheduler:
        if lengths and length is None:
            name = f"{key}.{lengths[0]}"
            raise RequestError(
                f"{name} is null, for the length of the run, which is not known; set it, "
                "trainer.max_epochs or trainer.max_steps",
                name,
            )
        supplied: dict[str, Any] = dict.fromkeys(lengths, length)
        if makers:
            steps = _steps_of_parts(node.get("milestones"), length, len(makers), key, unit)
            supplied["schedulers"] = [maker(optimizer, own) for maker, own in zip(makers, steps, strict=True)]
        # These schedulers set a rate of their own, which is that of the optimizer; the first group may have another.
        scale = optimizer.param_groups[0].get("lr_scale", 1)
        supplied |= {
            name: node[name] * scale
            for name in ("base_lr", "max_lr")
            if scale != 1 and isinstance(node.get(name), int | float)
        }
        return make_scheduler(optimizer=optimizer, **supplied)

    return make_for_length


def _steps_of_parts(milestones: object, length: int | None, count: int, key: str, unit: str) -> list[int | None]:
    """Return how many steps each of `count` composed schedulers takes: those between the milestones, or all.

    length: of the whole. key: of the composed scheduler. Raises RequestError for milestones after the end of the run.
    """
    if not isinstance(milestones, list) or not all(isinstance(one, int) for one in milestones):
        return [length] * count
    if length is not None and milestones and milestones[-1] >= length:
        raise RequestError(
            f"{key}.milestones is {milestones}, and the run has {length} {unit}, so that the last scheduler has none; "
            "write smaller ones, or a longer run",
            f"{key}.milestones",
        )
    bounds = [0, *milestones, length]
    steps = [end - start if end is not None else None for start, end in pairwise(bounds)]
    return [*steps, *([None] * count)][:count]  # torch refuses another number of milestones


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
