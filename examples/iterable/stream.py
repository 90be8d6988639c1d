"""A stream of handwritten digits, which are shuffled in a buffer because a stream has no order to draw."""

import random
from collections.abc import Iterator

from sklearn.datasets import load_digits
from torch import Tensor, tensor
from torch.utils.data import IterableDataset


class Stream(IterableDataset[tuple[Tensor, int]]):
    """Gives the digits from `first` to `last`, each with its class. buffer: how many of them are shuffled together."""

    def __init__(self, first: int, last: int, buffer: int = 1) -> None:
        self.first, self.last, self.buffer = first, last, buffer

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        digits, waiting = load_digits(), list[int]()
        for number in range(self.first, self.last):
            waiting.append(number)
            if len(waiting) == self.buffer or number == self.last - 1:
                while len(waiting) >= (1 if number == self.last - 1 else self.buffer):
                    index = waiting.pop(random.randrange(len(waiting)))
                    yield tensor(digits.images[index] / 16).float(), int(digits.target[index])
