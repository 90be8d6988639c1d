"""Leave parameters out of training."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from lamella.errors import RequestError, nearest


def freeze_parameters(network: nn.Module, patterns: Sequence[str]) -> None:
    """Leave the parameters whose names match one of `patterns` (with * and ?) out of training.

    A normalisation layer keeps its running statistics too, and is set to evaluation mode, if all of its parameters are
    frozen or if a pattern matches its `running_mean`.

    Raises RequestError for a pattern that matches no parameter and no buffer, and if no parameter would be left to
    train.
    """
    parameters = dict(network.named_parameters())
    names = [*parameters, *(name for name, _ in network.named_buffers())]
    frozen = set[str]()
    for pattern in patterns:
        matched = [name for name in names if fnmatchcase(name, pattern)]
        if not matched:
            hint = nearest(pattern.replace("*", ""), parameters)
            raise RequestError(f"network.freeze: no parameter is called like {pattern!r}; {hint}", "network.freeze")
        frozen.update(matched)
    for name in frozen & parameters.keys():
        parameters[name].requires_grad_(False)
    if frozen and not any(parameter.requires_grad for parameter in parameters.values()):
        raise RequestError("network.freeze: it leaves no parameter to train", "network.freeze")
    for place, module in network.named_modules():
        if getattr(module, "running_mean", None) is not None:
            own = {name for name, _ in module.named_parameters(place, recurse=False)}
            if f"{place}.running_mean" in frozen or (own and own <= frozen):
                module.eval()  # Lightning trains each module in the mode in which it finds it
