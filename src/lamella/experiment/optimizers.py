"""Read the config group `optimizer`: one optimizer, or several by name, each for its part of the network."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch.optim import LBFGS, Optimizer

from lamella.config.values import Config
from lamella.errors import RequestError
from lamella.training.optimizers import SINGLE, OptimizerPlan
from lamella.training.parameter_groups import Grouping, GroupRule, MakeOfGroups

# The keys of an optimizer that are no arguments of its class. The first two are of one of several optimizers.
OF_GROUPS = ("groups", "layer_decay")
OWN_KEYS = ("match", "every", *OF_GROUPS)
Make = Callable[[str, Config], Callable[..., Optimizer]]


def build_optimizers(node: Config, make: Make, is_read: Callable[[str], bool]) -> dict[str, OptimizerPlan]:
    """Return the plans of several optimizers by name, or that of a single one under the name SINGLE.

    make: returns the function that makes the optimizer of a node, which has a key, from `params`. is_read: returns
    whether an interpolation reads a key. Raises RequestError.
    """
    named = {name: part for name, part in node.items() if isinstance(part, Mapping) and "_target_" in part}
    if "_target_" in node or not named:
        return {SINGLE: _plan("optimizer", node, make)}
    for name, value in node.items():
        key = f"optimizer.{name}"
        if name in named or is_read(key) or (value is None and name in OF_GROUPS):
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


def optimizer_arguments(node: Config, module: str) -> Config:
    """Return the arguments of the optimizer that a LightningModule of the project's own makes.

    module: its class, for messages. Raises RequestError for groups, because the module hands over parameters alone.
    """
    for name in OF_GROUPS:
        if node.get(name) is not None:
            key = f"optimizer.{name}"
            raise RequestError(
                f"{key}: {module} makes its optimizer of parameters without names; leave it out,\n"
                "  and give the optimizer groups of parameters in configure_optimizers",
                key,
            )
    return {name: value for name, value in node.items() if name not in OF_GROUPS}


def _named_plan(name: str, node: Config, make: Make) -> OptimizerPlan:
    """Return the plan of one of several optimizers. Raises RequestError."""
    key = f"optimizer.{name}"
    if not str(name).isidentifier():
        raise RequestError(f"{key}: the name of an optimizer is letters, digits and _, as in train/generator_loss", key)
    match, every = _patterns(key, node, f"as {name}.*"), node.get("every", 1)
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise RequestError(
            f"{key}.every is {every!r}; it takes 1 for a step in each batch, 2 for one in each second batch, and so on",
            f"{key}.every",
        )
    return _plan(key, node, make, match, every)


def _plan(key: str, node: Config, make: Make, match: Iterable[str] = ("*",), every: int = 1) -> OptimizerPlan:
    arguments = {name: value for name, value in node.items() if name not in OWN_KEYS}
    grouping = Grouping(_of_groups(make(key, arguments)), layer_decay=_layer_decay(key, node))
    grouping.tried()  # before the groups, so that no group is blamed for an error in these arguments
    rules = tuple(_rules(key, node.get("groups"), arguments, make))
    return OptimizerPlan(replace(grouping, rules=rules), tuple(match), every)


def _rules(key: str, groups: object, arguments: Config, make: Make) -> Iterator[GroupRule]:
    """Yield what the list `groups` of an optimizer says. arguments: of the optimizer. Raises RequestError."""
    example, known = "[{match: norms, weight_decay: 0}]", [arguments]
    if groups is not None and not isinstance(groups, list):
        raise RequestError(f"{key}.groups is {groups!r}; it takes a list, as {example}", f"{key}.groups")
    for number, entry in enumerate(groups or []):
        place = f"{key}.groups.{number}"
        if not isinstance(entry, Mapping):
            raise RequestError(f"{place} is {entry!r}; it takes options with a `match`, as in {example}", place)
        match = _patterns(place, entry, "such as head.*, or norms, biases, embeddings or matrices")
        options = {name: value for name, value in entry.items() if name != "match"}
        if not options:
            raise RequestError(f"{place} gives {', '.join(match)} no options; write some, as in {example}", place)
        if options.get("lr") == 0:
            raise RequestError(
                f"{place}.lr is 0: a schedule keeps the proportion of the rates; network.freeze leaves parameters as "
                "they are",
                f"{place}.lr",
            )
        if "_target_" in options:
            known.append(options)
            tried, made = _tried(place, [options], {}, make)
            if isinstance(tried, LBFGS):
                raise RequestError(
                    f"{place}: LBFGS calls the network in its steps, and trains all parameters; take optimizer=lbfgs",
                    place,
                )
            yield GroupRule(match, {}, made)
        else:
            tried, _ = _tried(place, known, options, make)
            yield GroupRule(match, {name: tried.param_groups[0].get(name, value) for name, value in options.items()})


def _tried(place: str, known: Sequence[Config], options: Config, make: Make) -> tuple[Optimizer, MakeOfGroups]:
    """Return an optimizer with options, and what makes it: of the optimizers in `known`, the first that takes them."""
    errors = []
    for arguments in known:
        try:
            made = _of_groups(make(place, {**arguments, **options}))
            return Grouping(made).tried(), made
        except RequestError as error:
            errors.append(error)
    raise errors[0]


def _of_groups(make: Callable[..., Optimizer]) -> MakeOfGroups:
    return lambda groups: make(params=groups)


def _layer_decay(key: str, node: Config) -> float:
    """Return the factor between the rates of a layer and of the next one, 1 if there is none. Raises RequestError."""
    value = node.get("layer_decay")
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise RequestError(
            f"{key}.layer_decay is {value!r}; it takes a factor between 0 and 1, as 0.75, by which the learning rate "
            "of a layer is smaller than that of the next one, or null",
            f"{key}.layer_decay",
        )
    return value


def _patterns(key: str, node: Config, such: str) -> tuple[str, ...]:
    """Return the patterns in `match` of a node. such: examples, for messages. Raises RequestError."""
    match = node.get("match")
    patterns: list[Any] = match if isinstance(match, list) else [match]
    if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
        given, blamed = (f"{key}.match is {match!r}", f"{key}.match") if match else (f"{key} has no `match`", key)
        raise RequestError(
            f"{given}; it takes a pattern of the names of the parameters to train, {such}, or a list of such", blamed
        )
    return tuple(patterns)


def check_rates(optimizers: Sequence[Optimizer]) -> None:
    """Raise RequestError for an optimizer that has no learning rate, which schedules set and runs record."""
    for optimizer in optimizers:
        if any("lr" not in group for group in optimizer.param_groups):
            raise RequestError(
                f"optimizer: {type(optimizer).__name__} has no learning rate; it takes the argument `lr`, and keeps it "
                "in its param_groups",
                "optimizer",
            )
