"""The structure of a network, by which two networks can be told to compute alike."""

from typing import Any

from torch import nn

INTERNAL = set(vars(nn.Module()))  # what torch keeps in each module
MODULE_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def network_signature(module: nn.Module) -> dict[str, str]:
    """A text for each module in it, alike where they compute the same from parameters, buffers and Dropout's rates."""
    found = {}
    for name, part in module.named_modules(remove_duplicate=False):
        free = INTERNAL | {"p"} if type(part) is nn.Dropout else INTERNAL
        own = sorted(
            (key, value if _plain(value) else id(value)) for key, value in vars(part).items() if key not in free
        )
        tensors = [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]
        shapes = [(key, one.shape, one.dtype, one.requires_grad) for key, one in tensors]
        hooks = [len(getattr(part, key)) for key in MODULE_HOOKS]
        found[name] = str((type(part), own, shapes, hooks, part.training))
    return found


def _plain(value: Any) -> bool:
    """Whether equal values mean the same in two modules."""
    if isinstance(value, tuple | list):
        return all(map(_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
