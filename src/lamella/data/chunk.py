"""A chunk: several batches that are trained in one step of Lightning's loop."""

from collections.abc import Iterable, Iterator

from torch import Tensor

Served = Tensor | dict[str, Tensor]  # what a network takes: one tensor (B, …), or several by name
Batch = tuple[Served, Tensor]


class Chunk(tuple[Served, Tensor]):
    """Several batches: the last one as a tuple (inputs, targets), and the ones before it in `before`.

    `before` is an iterator that makes each batch when it is asked for.
    """

    before: Iterator[Batch]

    @classmethod
    def of(cls, last: Batch, before: Iterable[Batch]) -> "Chunk":
        """Return a chunk of the batches `before` and the batch `last`."""
        chunk = cls(last)
        chunk.before = iter(before)
        return chunk
