"""Random numbers as pure functions of counters, so that no random state has to be saved."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch

# The purpose of a stream of random numbers. It is one of the counters, so that two purposes never share a stream.
# OWN, SOURCE and READ are for augmentations, sources and inputs of a user's own, TEXT for texts that are generated.
ORDER, AUGMENT, LAYERS, OWN, SOURCE, READ, TEXT = 0, 1, 2, 3, 4, 5, 6


def generator(*counters: int) -> torch.Generator:
    """Return a generator that depends only on the counters; neighbouring counters give unrelated streams."""
    return torch.Generator().manual_seed(mixed(*counters))


def numpy_generator(*counters: int) -> np.random.RandomState:
    """Return a generator of NumPy that depends only on the counters, and whose numbers no version of NumPy changes."""
    return np.random.RandomState(mixed(*counters) % 2**32)


def reseed(number: int, device: torch.device) -> None:
    """Seed every generator that a layer may use: torch's for the CPU and `device`, Python's and NumPy's."""
    # torch.manual_seed seeds all devices, and takes a hundred times as long.
    torch.default_generator.manual_seed(number)
    if device.type != "cpu":
        getattr(torch, device.type).manual_seed(number)
    random.seed(number)
    np.random.seed(number % 2**32)


@contextmanager
def kept_random_state(device: torch.device) -> Iterator[None]:
    """Put every generator that `reseed` seeds back, at the end of the block, into the state in which it is now.

    The generator of an MPS device is left out, because its state cannot be read for a device.
    """
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else [], device_type="cuda"):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def seeded(device: torch.device, *counters: int) -> Iterator[None]:
    """Let every random generator depend only on the counters within the block, and restore it after the block.

    This is for code of a user's own, which may draw from any of torch's generators, from Python's and from NumPy's.
    """
    with kept_random_state(device):
        reseed(mixed(*counters), device)
        yield


def mixed(*counters: int) -> int:
    """Return the counters mixed by NumPy's SeedSequence, as a seed below 2**63."""
    return int(np.random.SeedSequence(counters).generate_state(1, np.uint64)[0]) >> 1


@lru_cache(maxsize=128)  # the runs of a fused sweep take turns
def batch_seeds(seed: int, rank: int, epoch: int, count: int) -> list[int]:
    """Return a seed for each of the first `count` batches of an epoch; neighbouring counters give unrelated seeds.

    The seeds of the first batches do not depend on `count`.
    """
    words = np.random.SeedSequence((seed, epoch, LAYERS, rank)).generate_state(count, np.uint64)
    return [int(word) >> 1 for word in words]
