"""Find parameters of a network: by a pattern of their names, by their kind, or by the layer that they belong to."""

from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase

from torch import nn

from lamella.errors import RequestError, nearest
from lamella.network.layers import Network, Sequential
from lamella.network.learned import ClassToken, Positions

# What a pattern may say in place of a name.
KINDS = ("norms", "biases", "embeddings", "matrices")
LISTS = (nn.Sequential, nn.ModuleList, Sequential, Network)  # not subclasses, which are layers
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag, ClassToken, Positions)


def parameter_kinds(network: nn.Module) -> dict[str, set[str]]:
    """Return the kinds of each parameter, by its name.

    norms: of a layer that normalizes, such as BatchNorm2d. biases: called bias, in_proj_bias and the like. embeddings:
    of an Embedding, of learned positions and class tokens. matrices: of two dimensions, and of no embedding.
    """
    kinds: dict[str, set[str]] = {name: set() for name, _ in network.named_parameters()}
    for place, module in network.named_modules():
        for name, value in module.named_parameters(place, recurse=False):
            if name not in kinds:  # one that several layers share has the name of the first
                continue
            if "Norm" in type(module).__name__ and value.dim() == 1:
                kinds[name].add("norms")
            if "bias" in name.rpartition(".")[2]:
                kinds[name].add("biases")
            if isinstance(module, EMBEDDINGS):
                kinds[name].add("embeddings")
            elif value.dim() == 2:
                kinds[name].add("matrices")
    return kinds


def matching(kinds: dict[str, set[str]], pattern: str) -> list[str]:
    """Return the names of the parameters that a pattern means: one of KINDS, or a name with * and ?.

    kinds: of the parameters to choose from, as `parameter_kinds` returns them.
    """
    return [name for name, own in kinds.items() if pattern in own or fnmatchcase(name, pattern)]


def check_matching(kinds: dict[str, set[str]], patterns: Collection[str], key: str) -> None:
    """Raise RequestError for a pattern that means no parameter.

    kinds: of the parameters that are trained. key: of the patterns.
    """
    for pattern in patterns:
        if pattern in KINDS and not matching(kinds, pattern):
            raise RequestError(f"{key}: the network has no {pattern} that are trained", key)
        if not matching(kinds, pattern):
            hint = nearest(pattern, {*KINDS, *(f"{name.partition('.')[0]}.*" for name in kinds)})
            raise RequestError(f"{key}: no parameter that is trained is called like {pattern!r}; {hint}", key)


def parameter_layers(network: nn.Module) -> dict[str, str]:
    """Return the name of the layer that each parameter belongs to, by the name of the parameter, in their order.

    A layer is an element of a list (Sequential, ModuleList) that is no list itself, such as a block of a transformer,
    or a module outside of all lists. What has only norms and embeddings, and parameters outside of layers, such as a
    class token, belong to the layer before them, or to the first layer.
    """
    kinds, layers = parameter_kinds(network), [*_layers(network, "", False)]
    homes = {name: next((layer for layer in layers if name.startswith(f"{layer}.")), "") for name in kinds}
    joined = {
        layer
        for layer in layers
        if all(own & {"norms", "embeddings"} for name, own in kinds.items() if homes[name] == layer)
    }
    found, last = dict[str, str](), next((layer for layer in homes.values() if layer), "")
    for name, layer in homes.items():
        last = last if layer in joined or not layer else layer
        found[name] = last
    return found


def _layers(module: nn.Module, place: str, is_element: bool) -> Iterator[str]:
    """Yield the names of the layers in a module. is_element: whether it is one of several elements of a list."""
    children = [(name, child) for name, child in module.named_children() if any(True for _ in child.parameters())]
    is_list = type(module) in LISTS
    if place and not is_list and (is_element or not any(type(part) in LISTS for part in module.modules())):
        yield place
        return
    for name, child in children:
        # The one element of a stack, as a ready-made network, is no layer: its own layers are.
        several = len(children) > 1 or (is_element and "." in place)
        yield from _layers(child, f"{place}.{name}" if place else name, is_list and several)
