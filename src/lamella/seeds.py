"""All that is random is a pure function of counters, so that there is no random state to save."""

import random
from functools import lru_cache

import numpy as np
import torch

# What a stream is for, so that none is another's: the third counter of each.
ORDER, AUGMENT, LAYERS = 0, 1, 2


def generator(*counters: int) -> torch.Generator:
    """A generator that depends on the counters alone; neighbouring counters give unrelated streams."""
    state = np.random.SeedSequence(counters).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)


def reseed(number: int, device: torch.device) -> None:
    """Seed what a layer may draw from: torch, Python and NumPy."""
    # Not torch.manual_seed, which takes a hundred times as long, for all devices that there may be.
    torch.default_generator.manual_seed(number)
    if device.type != "cpu":
        getattr(torch, device.type).manual_seed(number)
    random.seed(number)
    np.random.seed(number % 2**32)


@lru_cache(maxsize=1)
def batch_seeds(seed: int, rank: int, epoch: int, count: int) -> list[int]:
    """A seed for each batch of an epoch; neighbouring counters give unrelated ones."""
    words = np.random.SeedSequence((seed, epoch, LAYERS, rank)).generate_state(count, np.uint64)
    return [int(word) >> 1 for word in words]
