"""Leave parameters out of training."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from lamella.errors import RequestError, nearest


def freeze_parameters(network: nn.Module, patterns: Sequence[str]) -> None:
    """Leave the parameters whose names match one of `patterns` (with * and ?) out of training.

    Raises RequestError for a pattern that matches no parameter, and if no parameter would be left to train.
    """
    parameters = dict(network.named_parameters())
    for pattern in patterns:
        matched = [name for name in parameters if fnmatchcase(name, pattern)]
        if not matched:
            hint = nearest(pattern.replace("*", ""), parameters)
            raise RequestError(f"network.freeze: no parameter is called like {pattern!r}; {hint}", "network.freeze")
        for name in matched:
            parameters[name].requires_grad_(False)
    if patterns and not any(parameter.requires_grad for parameter in parameters.values()):
        raise RequestError("network.freeze: it leaves no parameter to train", "network.freeze")
