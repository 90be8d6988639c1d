"""Divide the parameters of an optimizer into groups with options of their own."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import SGD, Optimizer

from lamella.errors import RequestError
from lamella.network.parameters import check_matching, matching, parameter_kinds, parameter_layers
from lamella.torch_internals import ParamGroup
from lamella.training.joined_optimizer import JoinedOptimizer

MakeOfGroups = Callable[[Sequence[ParamGroup]], Optimizer]


@dataclass(frozen=True)
class GroupRule:
    """Gives options to the parameters that its patterns mean.

    match: patterns as `matching` takes them. options: arguments of the optimizer, which hold in place of its own and of
    those of earlier rules. make: of another optimizer, which trains these parameters instead, None for the same.
    """

    match: tuple[str, ...]
    options: Mapping[str, Any]
    make: MakeOfGroups | None = None

    @property
    def label(self) -> str:
        """Return a name for the log, as head for head.*."""
        parts = (re.sub(r"[^\w.]+", "_", pattern.strip("*.?")) for pattern in self.match)
        return "_".join(filter(None, parts)) or "all"


class _Part(NamedTuple):
    """The parameters of one group. Parts are sorted in the order of the groups."""

    other: int  # the number of the rule whose optimizer trains it, -1 for the optimizer of the config
    rules: tuple[int, ...]
    distance: int  # from the last layer
    thaws: float


@dataclass(frozen=True)
class Grouping:
    """Says which options the parameters of an optimizer have.

    make: returns the optimizer of groups of parameters. rules: each holds for the parameters that it matches. Where
    several match, the later one holds. layer_decay: the factor between the learning rates of a layer and of the next
    one, 1 for the same rate in all layers.
    """

    make: MakeOfGroups
    rules: tuple[GroupRule, ...] = ()
    layer_decay: float = 1.0

    @property
    def divides(self) -> bool:
        """Return True if not all parameters have the same options."""
        return bool(self.rules) or self.layer_decay != 1

    @property
    def rate(self) -> float:
        """Return the learning rate of parameters that no rule gives another one."""
        return float(self.tried().param_groups[0]["lr"])

    def tried(self, rule: int = -1) -> Optimizer:
        """Return the optimizer of a single small parameter. Raises what the optimizer raises for wrong options.

        rule: the number of the rule whose optimizer it is, -1 for the optimizer that has no rule.
        """
        return self._make_of(rule)([{"params": [nn.Parameter(torch.zeros(1, 1))]}])

    def _make_of(self, rule: int) -> MakeOfGroups:
        return (self.rules[rule].make if rule >= 0 else None) or self.make

    def optimizer(
        self, network: nn.Module, names: Sequence[str], thaws: Mapping[str, float], key: str = "optimizer"
    ) -> Optimizer:
        """Return the optimizer of the parameters of these names.

        A group has its learning rate divided by that of `make` as `lr_scale`, and the name of its rate for the log as
        `lr_name`. thaws: the last epoch in which a parameter is frozen, by name. key: of the optimizer in the config.
        Raises RequestError for a rule that matches none of the parameters or has an option that their optimizer does
        not know, and for rates that have no proportion.
        """
        kinds = parameter_kinds(network)
        trained, matched = {name: kinds[name] for name in names}, list[set[str]]()
        for number, rule in enumerate(self.rules):
            check_matching(trained, rule.match, f"{key}.groups.{number}.match")
            matched.append({name for pattern in rule.match for name in matching(trained, pattern)})
        layers = parameter_layers(network) if self.layer_decay != 1 else {}
        order = list(dict.fromkeys(reversed(layers.values())))  # the last layer first
        makers = [-1, *(number for number, rule in enumerate(self.rules) if rule.make)] if thaws else []
        # torch's fused SGD takes the momenta of all parameters of a group, or of none.
        by_thaw = {number for number in makers if isinstance(self.tried(number), SGD)}
        parts: dict[_Part, list[nn.Parameter]] = {}
        for name in names:
            rules = [number for number, found in enumerate(matched) if name in found]
            other = max((number for number in rules if self.rules[number].make), default=-1)
            distance = order.index(layers[name]) if layers else 0
            thaw = thaws.get(name, 0) if other in by_thaw else 0
            part = _Part(other, tuple(number for number in rules if number >= other), distance, thaw)
            parts.setdefault(part, []).append(network.get_parameter(name))
        made = [
            self._optimizer(other, {part: parts[part] for part in sorted(parts) if part.other == other}, order, key)
            for other in sorted({part.other for part in parts})
        ]
        optimizer = made[0] if len(made) == 1 else JoinedOptimizer(made)
        if self.divides:
            self._scale(optimizer, key)
        return optimizer

    def _optimizer(
        self, other: int, parts: Mapping[_Part, Sequence[nn.Parameter]], order: Sequence[str], key: str
    ) -> Optimizer:
        """Return the optimizer that trains some parts. other: the number of the rule that makes it, -1 for none."""
        groups = list[ParamGroup]()
        for part, parameters in parts.items():
            options = {name: value for number in part.rules for name, value in self.rules[number].options.items()}
            setting = [number for number in part.rules if number == other or "lr" in self.rules[number].options]
            names = [*(self.rules[number].label for number in setting[-1:]), *order[part.distance : part.distance + 1]]
            groups.append({"params": parameters, **options, "lr_name": "_".join(dict.fromkeys(names))})
        optimizer = self._make_of(other)(groups)
        for number in dict.fromkeys(number for part in parts for number in part.rules):
            if unknown := self.rules[number].options.keys() - optimizer.defaults.keys():
                place = f"{key}.groups.{number}.{min(unknown)}"
                raise RequestError(
                    f"{place}: some of these parameters are trained by {type(optimizer).__name__}, which has no such "
                    "option; write a `match` for the others alone",
                    place,
                )
        for part, group in zip(parts, optimizer.param_groups, strict=True):
            if part.distance:
                group["lr"] *= self.layer_decay**part.distance
        return optimizer

    def _scale(self, optimizer: Optimizer, key: str) -> None:
        """Note in each group the proportion between its rate and that of the config. key: as in `optimizer`."""
        rate = self.rate
        for group in optimizer.param_groups:
            if rate == 0 and group["lr"] != 0:
                raise RequestError(
                    f"{key}.lr is 0, and a group has {group['lr']:g}: a schedule keeps the proportion of the rates; "
                    "network.freeze leaves parameters as they are",
                    f"{key}.lr",
                )
            group["lr_scale"] = group["lr"] / rate if rate else 1.0


def keep_proportions(optimizer: Optimizer) -> None:
    """Give the groups of an optimizer rates in the proportion of the config, after a scheduler has set the first one.

    A scheduler sets the same rate in all groups, as OneCycleLR, or adds the same number to all, as CosineAnnealingLR.
    """
    first, *others = optimizer.param_groups
    if "lr_scale" in first:  # otherwise all groups have one rate
        for group in others:
            group["lr"] = first["lr"] * (group["lr_scale"] / first["lr_scale"])


def rate_of(groups: Sequence[ParamGroup]) -> float:
    """Return the present learning rate of parameters that the config gives no other one than `optimizer.lr`.

    groups: of the optimizer.
    """
    return float(groups[0]["lr"] / groups[0].get("lr_scale", 1))


def logged_rates(optimizer: Optimizer, rate: float, name: str) -> dict[str, float]:
    """Return the learning rates of an optimizer by their names in the log: lr, and lr/GROUP where the config says so.

    rate: as `rate_of` gives it. name: of the optimizer, "" for the only one.
    """
    rates = {f"lr/{name}" if name else "lr": rate}
    for group in optimizer.param_groups:
        if place := group.get("lr_name"):
            rates[f"lr/{name}_{place}" if name else f"lr/{place}"] = rate * group["lr_scale"]
    return rates


@dataclass(frozen=True)
class ParameterGroup:
    """A group of parameters: the class of their optimizer, their options, and their number and names."""

    optimizer: str
    lr: float
    weight_decay: float
    numbers: int
    names: list[str]


def described_groups(network: nn.Module, optimizer: Optimizer) -> list[ParameterGroup]:
    """Return what a user should know of the groups of an optimizer of a network."""
    places = {parameter: name for name, parameter in network.named_parameters()}
    parts = optimizer.optimizers if isinstance(optimizer, JoinedOptimizer) else [optimizer]
    return [
        ParameterGroup(
            type(part).__name__,
            group["lr"],
            group.get("weight_decay", 0),
            sum(parameter.numel() for parameter in group["params"]),
            [places[parameter] for parameter in group["params"]],
        )
        for part in parts
        for group in part.param_groups
    ]
