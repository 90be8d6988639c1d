"""The bytes of samples, and a checksum of those of each."""

import zlib
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from lamella.data.samples import Inputs, NamedInputs
from lamella.data.text_encoder import Texts


def contents(inputs: Inputs | NamedInputs) -> Iterable[bytes | memoryview] | None:
    """Return the bytes of each input, None for inputs that are not in memory."""
    if isinstance(inputs, Texts):
        return (text.encode() for text in inputs.texts)
    if isinstance(inputs, Tensor):
        return _rows(inputs)
    if isinstance(inputs, NamedInputs):
        return (b"".join(row) for row in zip(*map(_rows, inputs.tensors.values()), strict=True))
    return None


def checksums(inputs: Inputs | NamedInputs) -> np.ndarray | None:
    """Return the CRC-32 of each input, uint32 (N,), None for inputs that are not in memory and have no `checksums`."""
    if (each := contents(inputs)) is not None:
        return np.fromiter(map(zlib.crc32, each), np.uint32, len(inputs))
    own = getattr(inputs, "checksums", None)
    found: np.ndarray | None = own() if own else None
    return found


def _rows(values: Tensor) -> Iterator[memoryview]:
    """Yield the bytes of each row of a tensor (N, …)."""
    array: np.ndarray = values.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
    whole = array.data
    size = len(whole) // max(1, len(values))
    return (whole[number * size : (number + 1) * size] for number in range(len(values)))
