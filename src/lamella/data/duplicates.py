"""Find samples whose inputs are equal: copies within a split, and copies in another split."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np
import torch

from lamella.data.contents import contents
from lamella.data.images import ImageFiles
from lamella.data.samples import Inputs, NamedInputs, Samples
from lamella.data.summary import WORDS


def digests(inputs: Inputs | NamedInputs) -> np.ndarray | None:
    """Return a digest of 64 bits of each input, uint64 (N,), None for inputs that are not in memory.

    Two different inputs almost never share one.
    """
    each = contents(inputs)
    if each is None:
        return None
    joined = b"".join(blake2b(content, digest_size=8).digest() for content in each)
    return np.frombuffer(joined, np.uint64)


def leak_notes(splits: Mapping[str, Samples], sums: Mapping[str, np.ndarray], names: Sequence[str]) -> list[str]:
    """Return a note if samples of the splits in `names` equal a training sample.

    splits: the samples by the name of the split. sums: the checksums of their inputs. Images that stay files are not
    compared, and neither is a split that consists of the training samples.
    """
    train, found = splits["train"], []
    for name in names if "train" in sums else ():
        other = splits[name]
        if name not in sums or other.inputs is train.inputs:
            continue
        if isinstance(other.inputs, ImageFiles) or isinstance(train.inputs, ImageFiles):
            continue
        same = np.flatnonzero(np.isin(sums[name], sums["train"]))
        # Different inputs may have one checksum, so that those with a known one are compared once more.
        known = np.flatnonzero(np.isin(sums["train"], sums[name][same]))
        count = int(np.isin(_digests_of(other, same), _digests_of(train, known)).sum())
        if count:
            found.append(f"{count:,} of {len(other):,} {WORDS[name]} samples")
    return [f"{' and '.join(found)} have the input of a training sample; `lamella check-data` shows more"] * bool(found)


def equal_groups(digests: np.ndarray) -> list[np.ndarray]:
    """Return the indices of the samples that have the same digest, for each digest that several have."""
    _, numbers, counts = np.unique(digests, return_inverse=True, return_counts=True)
    order = np.argsort(numbers, kind="stable")
    parts = np.split(order, np.cumsum(counts)[:-1])
    return sorted((part for part in parts if len(part) > 1), key=lambda part: int(part[0]))


def _digests_of(samples: Samples, rows: np.ndarray) -> np.ndarray:
    if not len(rows):
        return np.empty(0, np.uint64)
    inputs, indices = samples.inputs, torch.from_numpy(rows)
    found = digests(inputs.take(indices) if isinstance(inputs, NamedInputs) else inputs[indices])
    assert found is not None
    return found
