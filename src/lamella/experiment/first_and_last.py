"""The first and the last batch of an epoch, with which a run is tried."""

from collections.abc import Callable, Iterator
from itertools import islice

from lamella.data.chunk import Batch
from lamella.data.datasets import ItemBatches
from lamella.data.loaded import LoadedBatches
from lamella.data.loader import Batches


class FirstAndLast:
    """A loader of the first and the last batch of `batches`, which has their length.

    The last one is left out if it is as large as the first, if it takes all batches before it to be made, or if
    `reached` returns less than its number, before or after the first. last_only: leave out the first one if there is a
    last one.
    """

    def __init__(
        self, batches: Batches | ItemBatches | LoadedBatches, reached: Callable[[], float], last_only: bool = False
    ) -> None:
        self.batches, self.reached, self.last_only = batches, reached, last_only

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        if not self.batches.jumps:
            yield from islice(self.batches, 1)
            return
        numbers = [0, len(self) - 1] if self.reached() >= len(self) > 1 else [0] * min(1, len(self))
        sizes = set[int]()
        for number in numbers[-1:] if self.last_only else numbers:
            if number and self.reached() <= number:  # it may be less after the first batch
                return
            batch = self._batch(number)
            if len(batch[1]) not in sizes:
                sizes.add(len(batch[1]))
                yield batch

    def _batch(self, number: int) -> Batch:
        self.batches.start = lambda: number
        return next(iter(self.batches))
