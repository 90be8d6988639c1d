"""Leave parameters out of training, in all epochs or in the first ones."""

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from lamella.errors import RequestError, nearest
from lamella.network.parameters import KINDS, matching, parameter_kinds

Freeze = Mapping[str, int | None]  # for each pattern the last epoch in which it freezes, None for all epochs


def freeze_parameters(network: nn.Module, patterns: Sequence[str] | Freeze, epoch: float = 1) -> None:
    """Leave the parameters that `patterns` mean, as `matching` takes them, out of the training of an epoch.

    A normalisation layer keeps its running statistics too, and is set to evaluation mode, if all of its parameters are
    frozen or if a pattern matches its `running_mean`. What was frozen in earlier epochs alone is trained from now on.

    patterns: a sequence, for all epochs, or a mapping to the last epoch. epoch: counted from 1; infinity for the time
    after all these epochs. Raises RequestError for a pattern that matches no parameter and no buffer, and if no
    parameter would be left to train.
    """
    last, parameters = last_frozen_epochs(network, patterns), dict(network.named_parameters())
    for name in last.keys() & parameters.keys():
        parameters[name].requires_grad_(last[name] < epoch)
    if last and not any(parameter.requires_grad for parameter in parameters.values()):
        when = f" in epoch {epoch}" if math.isfinite(min(last.values())) else ""
        raise RequestError(f"network.freeze: it leaves no parameter to train{when}", "network.freeze")
    for place, module in network.named_modules():
        if getattr(module, "running_mean", None) is not None:
            own = [last.get(name, 0) for name, _ in module.named_parameters(place, recurse=False)]
            kept = max(min(own, default=0), last.get(f"{place}.running_mean", 0))
            if kept:
                module.train(kept < epoch)  # Lightning trains each module in the mode in which it finds it


def read_freeze(value: object) -> Freeze:
    """Return the value of `network.freeze`: null, a list of patterns or a mapping. Raises RequestError."""
    patterns = dict.fromkeys(value) if isinstance(value, list) else {} if value is None else value
    if not isinstance(patterns, Mapping) or not all(isinstance(pattern, str) for pattern in patterns):
        raise RequestError(
            f"network.freeze is {value!r}; it takes a list of patterns, as [features.*], or the last epoch in which "
            "each freezes, as {features.*: 3}",
            "network.freeze",
        )
    for pattern, epoch in patterns.items():
        if epoch is not None and (isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 1):
            raise RequestError(
                f"network.freeze is {epoch!r} for {pattern}; it takes the number of the last epoch in which this "
                "pattern freezes, from 1 on, or null for all epochs",
                "network.freeze",
            )
    return patterns


def last_frozen_epochs(network: nn.Module, patterns: Sequence[str] | Freeze) -> dict[str, float]:
    """Return the last epoch in which a parameter or buffer is frozen, infinity for all epochs, by the names that match.

    Raises RequestError for a pattern that matches none.
    """
    epochs = patterns if isinstance(patterns, Mapping) else dict.fromkeys(patterns)
    kinds, buffers = parameter_kinds(network), [name for name, _ in network.named_buffers()]
    last: dict[str, float] = {}
    for pattern, epoch in epochs.items():
        matched = [*matching(kinds, pattern), *(name for name in buffers if fnmatchcase(name, pattern))]
        if not matched:
            hint = nearest(pattern.replace("*", ""), (*kinds, *KINDS))
            raise RequestError(f"network.freeze: no parameter is called like {pattern!r}; {hint}", "network.freeze")
        for name in matched:
            last[name] = max(last.get(name, 0), math.inf if epoch is None else epoch)
    return last
