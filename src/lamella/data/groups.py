"""Find the samples that belong together: those of one group, and those whose inputs are equal."""

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from lamella.data.samples import Inputs, NamedInputs
from lamella.data.text_encoder import Texts


def first_equal(inputs: Inputs | NamedInputs) -> Tensor | None:
    """Return for each sample the index of the first one whose input is equal, int64 (N,).

    None for inputs that are not in memory, such as image files.
    """
    contents = _contents(inputs)
    if contents is None:
        return None
    firsts: dict[bytes, int] = {}
    digests = (blake2b(content, digest_size=16).digest() for content in contents)
    return torch.tensor([firsts.setdefault(digest, number) for number, digest in enumerate(digests)])


def _contents(inputs: Inputs | NamedInputs) -> Iterable[bytes] | None:
    """Return the bytes of each input, None for inputs that are not in memory."""
    if isinstance(inputs, Texts):
        return (text.encode() for text in inputs.texts)
    if not isinstance(inputs, NamedInputs | Tensor):
        return None
    tensors = [inputs] if isinstance(inputs, Tensor) else inputs.tensors.values()
    rows = zip(*(tensor.numpy() for tensor in tensors), strict=True)
    return (b"".join(part.tobytes() for part in row) for row in rows)


def joined(groups: Tensor, first: Tensor) -> Tensor:
    """Return the groups of samples, int64 (N,), after those that contain equal samples have become one.

    groups: of each sample (N,). first: as `first_equal` returns it. The order of the groups stays.
    """
    own = torch.from_numpy(np.unique(groups.numpy(), return_inverse=True)[1])
    merged, before = own, torch.empty(0)
    while not torch.equal(merged, before):
        before = merged
        for keys in (first, own):  # samples with one key take the lowest number among them
            merged = merged.new_full((int(keys.max()) + 1,), len(own)).scatter_reduce(0, keys, merged, "amin")[keys]
    return merged
