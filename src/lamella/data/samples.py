"""Labelled samples, in memory or as files, and the function that splits them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lamella.errors import RequestError


class Inputs(Protocol):
    """The inputs of samples. Indexing with a tensor (B,) gives a batch (B, …). A tensor has this interface too.

    Inputs may have a method `take(indices)` that selects samples without reading them.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, indices: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class Samples:
    """Inputs with their targets.

    inputs: uint8 images (N, channels, height, width), which are normalised when they are served, or floats (N, …),
    which are served unchanged. targets: class indices int64 (N,), or floats (N, …).
    """

    inputs: Inputs
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, indices: Tensor) -> "Samples":
        """Return a selection of the samples. indices: int64."""
        inputs = self.inputs
        if isinstance(inputs, Tensor) or not hasattr(inputs, "take"):
            return Samples(inputs[indices], self.targets[indices])
        return Samples(inputs.take(indices), self.targets[indices])


@dataclass(frozen=True)
class Splits:
    """The samples of a source. Splits that the source does not have are taken from the training samples later.

    left_out: what the source has found and not read, as "left out: 3 hidden files". notes: what a user should know of
    the data, each as one sentence.
    """

    train: Samples
    val: Samples | None = None
    test: Samples | None = None
    left_out: str = ""
    notes: Sequence[str] = ()


def split_samples(samples: Samples, size: int | float, seed: int, key: str) -> tuple[Samples, Samples]:
    """Return the samples in two parts, the second of which has `size` samples, chosen at random by `seed`.

    size: a count, or a fraction below 1. key: the config key of the size, for messages. Raises RequestError if one of
    the parts would be empty.
    """
    total = len(samples)
    if isinstance(size, float) and size >= 1 and not size.is_integer():
        raise RequestError(f"{key} is {size}; it takes a count, or a fraction below 1", key)
    count = round(size * total) if isinstance(size, float) and size < 1 else int(size)
    if not 0 < count < total:
        raise RequestError(f"{key} is {size}; of {total} samples it must leave some on either side", key)
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    return samples.take(order[count:].sort().values), samples.take(order[:count].sort().values)
