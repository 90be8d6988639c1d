"""One epoch of batches: an index operation, one conversion, nothing per sample.

Everything random is a pure function of counters, the permutation of (seed, epoch) and a sample's augmentation
of (seed, epoch, index), so no random state has to be carried and the number of workers does not matter.
"""

import signal
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lamella.data.augment import Augment
from lamella.data.chunk import Batch, Chunk
from lamella.data.normalize import Normalize
from lamella.data.samples import Inputs, Samples
from lamella.seeds import ORDER, generator


class Batches:
    """Iterates over (inputs float (B, …), targets (B, …)) on `device`; each pass is one epoch, from batch `start` on.

    Shuffled, every batch is cut from one permutation and each of `world` ranks takes its share of it; `batch_size`
    counts all ranks. Up to world - 1 samples of the last batch sit out, so that the shares are equal and the mean of
    the ranks' gradients is the batch's. Unshuffled, every sample is served once, on one of the ranks. All ranks have
    the same number of batches, since they meet in each. Where `chunk`, called with the number of a batch, says that
    several are served as one, what comes is a Chunk, if the inputs are in memory.
    """

    def __init__(
        self,
        samples: Samples,
        batch_size: int,
        *,
        normalize: Normalize | None = None,
        augment: Augment | None = None,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        epoch: Callable[[], int] = lambda: 0,
        start: Callable[[], int] = lambda: 0,
        chunk: Callable[[int], int] = lambda number: 1,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        num_workers: int | None = None,
    ) -> None:
        self.samples, self.augment = samples, augment
        self.shuffle, self.seed, self.epoch, self.start, self.chunk = shuffle, seed, epoch, start, chunk
        self.rank, self.world, self.num_workers = rank, world, num_workers
        self.device = torch.device(device)
        self.normalize = normalize.to(self.device) if normalize else None
        self.size = max(1, batch_size // world)
        count = len(samples)
        if shuffle:
            count -= count % (batch_size if drop_last else world)
        self.count = count
        self.targets = samples.targets.to(self.device)
        self.inputs: Inputs = samples.inputs
        if isinstance(self.inputs, Tensor) and num_workers is None:
            self.inputs = self.inputs.to(self.device)

    def __len__(self) -> int:
        largest_share = -(-self.count // self.world)
        return -(-largest_share // self.size)

    def __iter__(self) -> Iterator[Batch]:
        # Asked when the first batch is, since Lightning makes an iterator before it knows where a run goes on.
        epoch, start = self.epoch(), self.start()
        order = torch.arange(len(self.samples))
        if self.shuffle:
            order = torch.randperm(len(self.samples), generator=generator(self.seed, epoch, ORDER))
        share = order[: self.count][self.rank :: self.world]
        drawn = None
        if self.augment:
            drawn = self.augment.draw(len(self.samples), self.seed, epoch).to(self.device)

        def batch(indices: Tensor, inputs: Tensor | None = None) -> Batch:
            if inputs is None:
                if isinstance(self.inputs, Tensor):
                    inputs = self.inputs.index_select(0, indices)
                else:
                    inputs = self.inputs[indices.cpu()].to(self.device)
            if drawn is not None and self.augment:
                inputs = self.augment(inputs, drawn[indices])
            if self.normalize is not None:
                inputs = self.normalize(inputs)
            return inputs, self.targets.index_select(0, indices)

        if self.num_workers is not None:
            for indices, inputs in self.read(share, start):
                yield batch(indices, inputs)
            return
        batches, number = self.cut(share.to(self.device)), start
        while number < len(batches):
            *before, last = batches[number : number + self.chunk(number)]
            yield Chunk.of(batch(last), map(batch, before)) if before else batch(last)
            number += 1 + len(before)

    def read(self, share: Tensor, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Indices and raw inputs of each batch from `start` on, read by the workers, on the device."""
        batches = self.cut(share)[start:]
        loader = DataLoader(
            _Reader(self.inputs, batches),
            batch_size=None,
            num_workers=self.num_workers or 0,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # it would draw from the global one, which dropout uses
            worker_init_fn=_deaf,
        )
        for indices, inputs in zip(batches, loader, strict=True):
            yield indices.to(self.device), inputs.to(self.device, non_blocking=True)

    def cut(self, share: Tensor) -> Sequence[Tensor]:
        """A rank's share in as many batches as the others have, though it may be smaller by a sample."""
        count = len(self)
        if len(share) > self.size * (count - 1):
            return torch.split(share, self.size) if count else ()
        return share.tensor_split(count)


def _deaf(worker: int) -> None:
    """Leave signals to the process that the worker reads for: Ctrl-C reaches both, and the step is to be finished."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


class _Reader(Dataset[Tensor]):
    """What a worker does: whole batches, so that it takes one message a batch."""

    def __init__(self, inputs: Inputs, batches: Sequence[Tensor]) -> None:
        self.inputs, self.batches = inputs, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Tensor:
        return self.inputs[self.batches[number]]
