"""Several batches that are trained as one of Lightning's steps."""

from collections.abc import Iterable, Iterator

from torch import Tensor

Batch = tuple[Tensor, Tensor]


class Chunk(tuple[Tensor, Tensor]):
    """The last batch (inputs, targets) of several. before: the others, which are made as they are asked for."""

    before: Iterator[Batch]

    @classmethod
    def of(cls, last: Batch, before: Iterable[Batch]) -> "Chunk":
        chunk = cls(last)
        chunk.before = iter(before)
        return chunk
