"""Describe the structure of a network, by which one can tell whether two networks compute alike."""

from torch import nn

from lamella.torch_internals import hook_counts, own_attributes


def network_signature(network: nn.Module) -> dict[str, str]:
    """Return a text for each module in a network, by the module's name.

    Two networks with equal signatures compute the same from their parameters, their buffers and the rates of Dropout.
    The texts may contain ids of objects, so both networks must exist while their signatures are compared.
    """
    texts = {}
    for name, module in network.named_modules(remove_duplicate=False):
        attributes = own_attributes(module)
        if type(module) is nn.Dropout:
            del attributes["p"]
        values = sorted((key, value if _is_plain(value) else id(value)) for key, value in attributes.items())
        tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        shapes = [(key, tensor.shape, tensor.dtype, tensor.requires_grad) for key, tensor in tensors]
        texts[name] = str((type(module), values, shapes, hook_counts(module), module.training))
    return texts


def _is_plain(value: object) -> bool:
    """Return True if equal values have the same meaning in two modules."""
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
