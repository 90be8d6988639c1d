"""Labelled samples, in memory or as files, and the function that splits them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from lamella.errors import RequestError

Shape = tuple[int, ...] | dict[str, tuple[int, ...]]  # of a sample, or of each of its named inputs
InputType = torch.dtype | dict[str, torch.dtype]
INPUT_TYPES = {"float32": torch.float32, "int64": torch.int64, "bool": torch.bool}


def plain_shape(shape: Sequence[int] | Mapping[str, Sequence[int]]) -> Shape:
    """Return a shape as it is written in a config as tuples."""
    return {name: tuple(one) for name, one in shape.items()} if isinstance(shape, Mapping) else tuple(shape)


def written_shape(shape: Shape) -> list[int] | dict[str, list[int]]:
    """Return a shape as it is written in a config."""
    return {name: list(one) for name, one in shape.items()} if isinstance(shape, dict) else list(shape)


def written_type(types: InputType) -> str | dict[str, str]:
    """Return the type of inputs as `data.dtype` names it."""
    if isinstance(types, dict):
        return {name: str(one).removeprefix("torch.") for name, one in types.items()}
    return str(types).removeprefix("torch.")


def input_type(names: object) -> InputType:
    """Return the type of inputs that `data.dtype` names, or a mapping of types. Raises RequestError."""
    if isinstance(names, Mapping):
        return {name: INPUT_TYPES[_known_type(one)] for name, one in names.items()}
    return INPUT_TYPES[_known_type(names)]


def _known_type(name: object) -> str:
    if name not in INPUT_TYPES:
        raise RequestError(f"data.dtype is {name!r}; it takes {', '.join(INPUT_TYPES)}", "data.dtype")
    return str(name)


class Inputs(Protocol):
    """The inputs of samples. Indexing with a tensor (B,) gives a batch (B, …). A tensor has this interface too.

    Inputs may have a method `take(indices)` that selects samples without reading them, and a method `checksums()` that
    returns the CRC-32 of each input as uint32 (N,), by which a resumed run knows that the inputs have not changed.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, indices: Tensor, /) -> Tensor: ...


class NamedInputs:
    """The inputs of networks that take several: tensors (N, …) by name, which are served as a dict."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = dict(tensors)

    def __len__(self) -> int:
        return min(map(len, self.tensors.values()), default=0)

    def take(self, indices: Tensor) -> "NamedInputs":
        """Return a selection of the inputs. indices: int64."""
        return NamedInputs({name: values[indices] for name, values in self.tensors.items()})

    def to(self, device: torch.device) -> "NamedInputs":
        """Return a copy on `device`."""
        return NamedInputs({name: values.to(device) for name, values in self.tensors.items()})


@dataclass(frozen=True)
class Samples:
    """Inputs with their targets.

    inputs: uint8 images (N, channels, height, width), which are normalised when they are served; floats or bools
    (N, …), which are served unchanged; other integers (N, …), which are indices and served as int64; or NamedInputs.
    targets: class indices of samples (N,) or of positions (N, …), of any integer type, or floats (N, …). groups: a
    number for each sample, int64 (N,), equal for samples that are not to be divided; None if each stands alone.
    """

    inputs: Inputs | NamedInputs
    targets: Tensor
    groups: Tensor | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, indices: Tensor) -> "Samples":
        """Return a selection of the samples. indices: int64."""
        inputs = self.inputs
        has_take = isinstance(inputs, NamedInputs) or (not isinstance(inputs, Tensor) and hasattr(inputs, "take"))
        taken = inputs.take(indices) if has_take else inputs[indices]  # type: ignore[union-attr, index]
        return Samples(taken, self.targets[indices], None if self.groups is None else self.groups[indices])


@runtime_checkable
class Encoder(Protocol):
    """Turns raw samples into those that a network takes, by what it has learned from the training samples.

    The last four methods are for predictions.
    """

    def fit(self, samples: Samples) -> None:
        """Learn from the raw training samples."""

    def encode(self, samples: Samples) -> Samples:
        """Return the samples that raw samples become."""

    def state(self) -> dict[str, object]:
        """Return what was learned, as plain values: the `_target_` and the arguments that make an equal encoder."""

    def read(self, path: str) -> tuple[list[str], Tensor]:
        """Return a name for each sample in a file, and the inputs (N, …) as the network takes them.

        Raises RequestError that names the place in the file.
        """

    def noun(self) -> str:
        """Return what such a name is the name of, as "row"."""

    def decode(self, outputs: Tensor) -> Tensor:
        """Return outputs that are numbers (B, …) in the unit of the raw targets."""

    def output_names(self) -> list[str]:
        """Return a name for each number of an output, or an empty list where the outputs are no numbers."""


@dataclass(frozen=True)
class Splits:
    """The samples of a source. Splits that the source does not have are taken from the training samples later.

    encoder: fitted on the training samples that are left then, and applied to all.
    left_out: what the source has found and not read, as "left out: 3 hidden files". notes: what a user should know of
    the data, each as one sentence.
    """

    train: Samples
    val: Samples | None = None
    test: Samples | None = None
    left_out: str = ""
    notes: Sequence[str] = ()
    encoder: Encoder | None = None


def served(values: Tensor) -> Tensor:
    """Return values as a network and a loss take them: integers as int64, which are stored in less memory."""
    return values if values.is_floating_point() or values.dtype == torch.bool else values.long()


def split_samples(samples: Samples, size: int | float, seed: int, key: str) -> tuple[Samples, Samples]:
    """Return the samples in two parts, the second of which has `size` samples, chosen at random by `seed`.

    Samples in groups are divided by whole groups, so that the second part has about that size. size: a count, or a
    fraction below 1. key: the config key of the size, for messages. Raises RequestError if one of the parts would be
    empty.
    """
    total = len(samples)
    if isinstance(size, float) and size >= 1 and not size.is_integer():
        raise RequestError(f"{key} is {size}; it takes a count, or a fraction below 1", key)
    count = round(size * total) if isinstance(size, float) and size < 1 else int(size)
    if not 0 < count < total:
        raise RequestError(f"{key} is {size}; of {total} samples it must leave some on either side", key)
    generator = torch.Generator().manual_seed(seed)
    if samples.groups is None:
        order = torch.randperm(total, generator=generator)
        return samples.take(order[count:].sort().values), samples.take(order[:count].sort().values)
    taken = _whole_groups(samples.groups, count, generator)
    if taken.all() or not taken.any():
        raise RequestError(
            f"{key} is {size}, {count} of {total} samples, but these are in groups that are not divided, the smallest "
            f"of {np.unique(samples.groups.numpy(), return_counts=True)[1].min()}; write another {key}",
            key,
        )
    return samples.take((~taken).nonzero().flatten()), samples.take(taken.nonzero().flatten())


def _whole_groups(groups: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return which samples are in groups that have about `count` samples together, bool (N,).

    groups: (N,). The groups are taken in a random order, each if that brings the number of samples closer to `count`.
    """
    _, numbers, sizes = np.unique(groups.numpy(), return_inverse=True, return_counts=True)
    taken = torch.zeros(len(sizes), dtype=torch.bool)
    for number in torch.randperm(len(sizes), generator=generator).tolist():
        if sizes[number] <= 2 * count:
            taken[number], count = True, count - int(sizes[number])
    return taken[torch.from_numpy(numbers)]


def cut_splits(
    source: Splits, val_size: int | float, test_size: int | float, seed: int
) -> tuple[Samples, Samples, Samples]:
    """Return the training, validation and test samples; splits that the source lacks are cut off from the training.

    val_size, test_size, seed: as in `Data`. Raises RequestError.
    """
    train, val, test = source.train, source.val, source.test
    if test is None:
        train, test = split_samples(train, test_size, seed + 1, "data.test_size")
    if val_size == 0:
        val = train.take(torch.arange(0))
    elif val is None:
        train, val = split_samples(train, val_size, seed, "data.val_size")
    return train, val, test
