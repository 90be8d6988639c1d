"""Find parameters of a network: by a pattern of their names, by their kind, or by the layer that they belong to."""

from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase

from torch import nn

from lamella.errors import RequestError, nearest
from lamella.network.layers import Branches, Network, Residual, Sequential
from lamella.network.learned import ClassToken, Positions

# What a pattern may say in place of a name.
KINDS = ("norms", "biases", "embeddings", "matrices")
LISTS = (nn.Sequential, nn.ModuleList, Sequential, Network)  # not subclasses, which are layers
BRANCHED = (Residual, Branches)  # layers that run others, partly side by side
NORMS = (nn.LayerNorm, nn.RMSNorm)  # whose weights may have several dimensions
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag, ClassToken, Positions)


def parameter_kinds(network: nn.Module) -> dict[str, set[str]]:
    """Return the kinds of each parameter, by its name.

    norms: of a layer that normalizes, such as BatchNorm2d. biases: called bias, in_proj_bias and the like. embeddings:
    of an Embedding, of learned positions and class tokens. matrices: of two dimensions, and none of the others.
    """
    kinds: dict[str, set[str]] = {name: set() for name, _ in network.named_parameters()}
    for place, module in network.named_modules():
        for name, value in module.named_parameters(place, recurse=False):
            if name not in kinds:  # one that several layers share has the name of the first
                continue
            if isinstance(module, NORMS) or ("Norm" in type(module).__name__ and value.dim() == 1):
                kinds[name].add("norms")
            if "bias" in name.rpartition(".")[2]:
                kinds[name].add("biases")
            if isinstance(module, EMBEDDINGS):
                kinds[name].add("embeddings")
            if value.dim() == 2 and not kinds[name]:
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
    one of several equal lists, as Repeat makes them, a module with several lists side by side, or a module outside of
    all lists. What has only norms and embeddings, and parameters outside of layers, such as a class token, belong to
    the layer before them, or to the first layer.
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


def _layers(module: nn.Module, place: str, is_element: bool, is_whole: bool = True) -> Iterator[str]:
    """Yield the names of the layers in a module.

    is_element: whether the module is one of several elements of a list. is_whole: whether it is the network, or the one
    element of a stack, as a ready-made network is, whose parts are the layers.
    """
    children = [(name, child) for name, child in module.named_children() if any(True for _ in child.parameters())]
    lists = [child for _, child in children if type(child) in LISTS]
    is_list = type(module) in LISTS
    is_branched = isinstance(module, BRANCHED) or (len(lists) > 1 and not is_whole)
    has_list = any(type(part) in LISTS for part in module.modules())
    if place and not is_list and (is_element or is_branched or not has_list):
        yield place
        return
    are_copies = is_list and len(lists) > 1 and len({_structure(child) for _, child in children}) == 1
    # A list of one is a stack with a whole network only near the root; further inside, as in EfficientNet, its one
    # element is a block like any other.
    several = len(children) > 1 or (is_element and "." in place)
    for name, child in children:
        inner = f"{place}.{name}" if place else name
        if are_copies:
            yield inner
        else:
            yield from _layers(child, inner, is_list and several, is_list and not several)


def _structure(module: nn.Module) -> tuple[tuple[str, type], ...]:
    return tuple((name, type(part)) for name, part in module.named_modules())
