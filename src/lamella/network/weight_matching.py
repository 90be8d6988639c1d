"""Give a network the weights of another one: match them by name and shape, and say what becomes of each."""

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from lamella.errors import RequestError, nearest
from lamella.tables import format_table

KEY = "network.weights"
SHOWN = 4  # the names that a line shows
TRIED = 100  # the names of each side among which a prefix is looked for


@dataclass(frozen=True)
class TakenWeights:
    """What a network has taken from other weights. Parameters and buffers are given by name.

    origin: where the weights come from. taken, new: those of the network, with their shapes; the new ones keep the
    values that were drawn. unused: those of the other weights, by the names that they have after the renaming.
    """

    origin: str
    taken: dict[str, tuple[int, ...]]
    new: dict[str, tuple[int, ...]]
    unused: dict[str, tuple[int, ...]]

    @property
    def line(self) -> str:
        """Return a line for the log of a run."""
        rest = [f"{kind}: {names_text(names)}" for kind, names in (("new", self.new), ("unused", self.unused)) if names]
        count, total = len(self.taken), len(self.taken) + len(self.new)
        return "; ".join([f"weights: {count} of {total} parameters and buffers from {self.origin}", *rest])

    def table(self) -> str:
        """Return a table of what is taken, new and unused, with the layers that this is about."""
        rows = [
            [kind, str(len(shapes)), f"{sum(map(_size, shapes.values())):,}", names_text(shapes, len(shapes))]
            for kind, shapes in (("taken", self.taken), ("new", self.new), ("unused", self.unused))
        ]
        return f"Weights from {self.origin}\n" + format_table([["", "tensors", "numbers", "names"], *rows])


def take_weights(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    origin: str,
    rename: Mapping[str, str],
    skip: Collection[str],
    short: str | None = None,
) -> TakenWeights:
    """Copy into a network the weights whose names and shapes it has; all others keep their values.

    network: may be on the meta device, to see what would be taken. weights: tensors by name, and origin: where they
    come from. rename: for prefixes of their names the prefixes in the network; of several that fit, the first one
    counts. skip: patterns, with * and ?, of names in the network that are not taken. short: what `network.weights` is
    where it has no further keys, for messages.

    Raises RequestError for a tensor that has another shape in the network, for a prefix and a pattern that no name has,
    and where nothing would be taken.
    """
    own = {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}
    theirs = {_renamed(name, rename): value for name, value in weights.items()}
    if len(theirs) < len(weights):
        names = Counter(_renamed(name, rename) for name in weights)
        raise RequestError(f"{KEY}.rename: two tensors would have the name {names.most_common(1)[0][0]}", KEY)
    for prefix in rename:
        if not any(name.startswith(prefix) for name in weights):
            raise RequestError(f"{KEY}.rename: no name in {origin} begins with {prefix!r}: {names_text(weights)}", KEY)
    for pattern in skip:
        if not any(fnmatchcase(name, pattern) for name in (*own, *theirs)):
            raise RequestError(f"{KEY}.skip: nothing is called like {pattern!r}; {nearest(pattern, own)}", KEY)
    both = [name for name in own if name in theirs and not any(fnmatchcase(name, pattern) for pattern in skip)]
    taken = [name for name in both if own[name].shape == theirs[name].shape]
    if others := [name for name in both if name not in taken]:
        layers = [*skip, *dict.fromkeys(f"{_layer(name)}.*" if _layer(name) else name for name in others)]
        way = f"network.weights.skip=[{','.join(layers)}]"
        if short is not None:
            source = short if re.fullmatch(r"[\w./-]+", short) else json.dumps(short)
            way = f"'network.weights={{from: {source}, skip: [{', '.join(layers)}]}}'"
        raise _other_shapes(others, origin, own, theirs, way)
    if not taken:
        raise _nothing_taken(origin, own, weights)
    with torch.no_grad():
        for name in taken:
            own[name].copy_(theirs[name])
    return TakenWeights(
        origin,
        {name: tuple(own[name].shape) for name in taken},
        {name: tuple(value.shape) for name, value in own.items() if name not in taken},
        {name: tuple(value.shape) for name, value in theirs.items() if name not in taken},
    )


def names_text(names: Collection[str], shown: int = SHOWN) -> str:
    """Return names in one line: those of a layer with its name and a star where there are several."""
    counts = Counter(filter(None, map(_layer, names)))
    texts = list(dict.fromkeys(f"{_layer(name)}.*" if counts[_layer(name)] > 1 else name for name in names))
    return ", ".join(texts[:shown]) + (f" and {len(texts) - shown} more" if len(texts) > shown else "")


def _renamed(name: str, rename: Mapping[str, str]) -> str:
    prefix = next((prefix for prefix in rename if name.startswith(prefix)), "")
    return rename.get(prefix, "") + name.removeprefix(prefix)


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _size(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


def _other_shapes(
    names: list[str], origin: str, own: Mapping[str, Tensor], theirs: Mapping[str, Tensor], way: str
) -> RequestError:
    """Return the error for tensors that have another shape in the network. way: the override that skips them."""
    first = names[0]
    more = f", and {len(names) - 1} more {'has' if len(names) == 2 else 'have'} another shape" if names[1:] else ""
    return RequestError(
        f"{KEY}: {first} is {tuple(theirs[first].shape)} in {origin} and {tuple(own[first].shape)} in this network"
        f"{more};\n  to draw them anew: {way}",
        KEY,
    )


def _nothing_taken(origin: str, own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> RequestError:
    """Return the error for weights of which the network has no name, with the prefixes that explain it, if any do."""
    message = f"{KEY}: no name in {origin} ({names_text(weights)}) is one of this network ({names_text(own)})"
    before, after, count = max(
        ((before, after, _explained(before, after, own, weights)) for before, after in _likely_prefixes(own, weights)),
        key=lambda found: found[2],
        default=("", "", 0),
    )
    if count:
        message += f";\n  {count} of {len(weights)} fit with `rename: {{{before!r}: {after!r}}}` below network.weights"
    return RequestError(message, KEY)


def _likely_prefixes(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Return the prefixes that remain of names whose ends and shapes are equal, the most frequent ones first."""
    pairs = Counter[tuple[str, str]]()
    for name in list(weights)[:TRIED]:
        for other in list(own)[:TRIED]:
            one, two = name.split("."), other.split(".")
            if one[-1] == two[-1] and weights[name].shape == own[other].shape:
                while one and two and one[-1] == two[-1]:
                    one.pop()
                    two.pop()
                pairs["".join(f"{part}." for part in one), "".join(f"{part}." for part in two)] += 1
    return [prefixes for prefixes, _ in pairs.most_common(TRIED)]


def _explained(before: str, after: str, own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> int:
    """Return how many weights have a name and a shape of the network once the prefix `before` is `after`."""
    renamed = {after + name.removeprefix(before): value for name, value in weights.items() if name.startswith(before)}
    return sum(name in own and own[name].shape == value.shape for name, value in renamed.items())
