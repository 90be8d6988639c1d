"""Find the samples that belong together: those of one group, and those whose inputs are equal."""

import numpy as np
import torch
from torch import Tensor

from lamella.data.duplicates import digests
from lamella.data.samples import Inputs, NamedInputs


def first_equal(inputs: Inputs | NamedInputs) -> Tensor | None:
    """Return for each sample the index of the first one whose input is equal, int64 (N,).

    None for inputs that are not in memory, such as image files.
    """
    found = digests(inputs)
    if found is None:
        return None
    _, first, numbers = np.unique(found, return_index=True, return_inverse=True)
    return torch.from_numpy(first[numbers])


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
