"""Read the config group `optimizer`: one optimizer, or several by name, each for its part of the network."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch.optim import Optimizer

from lamella.config.values import Config
from lamella.errors import RequestError
from lamella.training.optimizers import SINGLE, OptimizerPlan

OWN_KEYS = ("match", "every")  # of each of several optimizers, which are no arguments of its class
Make = Callable[[str, Config], Callable[..., Optimizer]]


def build_optimizers(node: Config, make: Make, is_read: Callable[[str], bool]) -> dict[str, OptimizerPlan]:
    """Return the plans of several optimizers by name, or that of a single one under the name SINGLE.

    make: returns the function that makes the optimizer of a node, which has a key, from `params`. is_read: returns
    whether an interpolation reads a key. Raises RequestError.
    """
    named = {name: part for name, part in node.items() if isinstance(part, Mapping) and "_target_" in part}
    if "_target_" in node or not named:
        return {SINGLE: _plan("optimizer", node, ["*"], make)}
    for name, value in node.items():
        key = f"optimizer.{name}"
        if name in named or is_read(key):
            continue
        if isinstance(value, Mapping):
            raise RequestError(f"{key}: it takes a `_target_`, the class of this optimizer", key)
        places = " or ".join(f"optimizer.{one}.{name}" for one in named)
        raise RequestError(f"{key}: no optimizer reads this key; write {places}", key, unknown=True)
    plans = {name: _named_plan(name, part, make) for name, part in named.items()}
    if all(plan.every > 1 for plan in plans.values()):
        raise RequestError(
            "optimizer: in some batches no optimizer would take a step; give one of them `every: 1`", "optimizer"
        )
    return plans


def _named_plan(name: str, node: Config, make: Make) -> OptimizerPlan:
    """Return the plan of one of several optimizers. Raises RequestError."""
    key = f"optimizer.{name}"
    if not str(name).isidentifier():
        raise RequestError(f"{key}: the name of an optimizer is letters, digits and _, as in train/generator_loss", key)
    match, every = node.get("match"), node.get("every", 1)
    patterns: list[Any] = match if isinstance(match, list) else [match]
    if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
        given, blamed = (f"{key}.match is {match!r}", f"{key}.match") if match else (f"{key} has no `match`", key)
        raise RequestError(
            f"{given}; it takes a pattern of the names of the parameters to train, as {name}.*, or a list of such",
            blamed,
        )
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise RequestError(
            f"{key}.every is {every!r}; it takes 1 for a step in each batch, 2 for one in each second batch, and so on",
            f"{key}.every",
        )
    arguments = {argument: value for argument, value in node.items() if argument not in OWN_KEYS}
    return _plan(key, arguments, patterns, make, every)


def _plan(key: str, node: Config, patterns: Iterable[str], make: Make, every: int = 1) -> OptimizerPlan:
    make_optimizer = make(key, node)
    return OptimizerPlan(lambda parameters: make_optimizer(params=parameters), tuple(patterns), every)
