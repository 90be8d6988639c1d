"""Random numbers as pure functions of counters, so that no random state has to be saved."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch

# The purpose of a stream of random numbers. It is one of the counters, so that two purposes never share a stream.
ORDER, AUGMENT, LAYERS = 0, 1, 2


def generator(*counters: int) -> torch.Generator:
    """Return a generator that depends only on the counters; neighbouring counters give unrelated streams.

    The counters are mixed by NumPy's SeedSequence.
    """
    state = np.random.SeedSequence(counters).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)


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
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
    random.setstate(python)
    np.random.set_state(numpy)


@lru_cache(maxsize=128)  # the runs of a fused sweep take turns
def batch_seeds(seed: int, rank: int, epoch: int, count: int) -> list[int]:
    """Return a seed for each of the `count` batches of an epoch; neighbouring counters give unrelated seeds."""
    words = np.random.SeedSequence((seed, epoch, LAYERS, rank)).generate_state(count, np.uint64)
    return [int(word) >> 1 for word in words]
