"""Labelled samples, in memory or as files, and how they are split."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lamella.errors import RequestError


class Inputs(Protocol):
    """What a batch is taken from: indices (B,) in, a tensor (B, …) out. A tensor is one."""

    def __len__(self) -> int: ...
    def __getitem__(self, indices: Tensor, /) -> Tensor: ...
    def take(self, indices: Tensor, /) -> "Inputs": ...


@dataclass(frozen=True)
class Samples:
    """Inputs with their targets.

    inputs: images are uint8 (N, channels, height, width) and get normalised when they are served; floats (N, …)
    are served as they are. targets: class indices int64 (N,), or floats (N, …).
    """

    inputs: Inputs
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, indices: Tensor) -> "Samples":
        inputs = self.inputs[indices] if isinstance(self.inputs, Tensor) else self.inputs.take(indices)
        return Samples(inputs, self.targets[indices])


@dataclass(frozen=True)
class Splits:
    """What a source gives. A split that it lacks is cut off from the training samples."""

    train: Samples
    val: Samples | None = None
    test: Samples | None = None


def split_samples(samples: Samples, size: int | float, seed: int, key: str) -> tuple[Samples, Samples]:
    """Cut `size` samples (a count, or a fraction below 1) off, chosen by `seed`. Returns the rest and the cut.

    Raises RequestError when either part would be empty.
    """
    total = len(samples)
    if isinstance(size, float) and size >= 1 and not size.is_integer():
        raise RequestError(f"{key} is {size}; it takes a count, or a fraction below 1", key)
    count = round(size * total) if isinstance(size, float) and size < 1 else int(size)
    if not 0 < count < total:
        raise RequestError(f"{key} is {size}; of {total} samples it must leave some on either side", key)
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    return samples.take(order[count:].sort().values), samples.take(order[:count].sort().values)
