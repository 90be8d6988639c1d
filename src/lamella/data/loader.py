"""The loader that makes the batches of an epoch: each by one index operation and one conversion, nothing per sample.

The order of the samples is a pure function of (seed, epoch), and the augmentation of a sample of (seed, epoch, index).
So there is no random state to save, and the number of workers does not change the batches.
"""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from types import FrameType

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lamella.data.augment import Augment
from lamella.data.cache import MappedImages
from lamella.data.chunk import Batch, Chunk
from lamella.data.images import ImageFiles
from lamella.data.normalize import Normalize
from lamella.data.sampler import Order
from lamella.data.samples import Inputs, NamedInputs, Samples, served
from lamella.errors import RequestError
from lamella.interrupts import SIGNALS, end_with_parent
from lamella.seeds import OWN, READ, seeded

CPU = torch.device("cpu")

WORKER_SECONDS = 600  # the time that a run has, after SIGTERM, to finish its step and its validation


class Batches:
    """Iterates over the batches of one epoch: inputs (B, …) or named inputs, and targets (B, …), on `device`.

    samples: what the batches are made of. reconstructs: serve the inputs as the targets too. ignored: the class index
    of pixels that augmentation brings into masks from outside; None if the targets are no masks. batch_size: the number
    of samples in a batch, over all ranks. normalize, augment: applied to the inputs; None leaves them out. shuffle:
    draw a new order for each epoch from `seed`. weights: with which each sample is then drawn (N,), with replacement;
    None takes each once. drop_last: leave out the last batch if it is smaller than the others; only with `shuffle`.
    epoch: returns the number of the epoch that begins. start: returns the number of its first batch, which is above 0
    after an interruption. chunk: returns how many batches are served as one Chunk, for the number of the first of them;
    only if the inputs are in memory. rank, world: this process, and how many share each batch. num_workers: the number
    of processes that read inputs which are not in memory; None if the inputs are in memory. `Order` says which
    samples a batch has.
    """

    jumps = True  # a batch is made without those before it

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
        reconstructs: bool = False,
        ignored: int | None = None,
        weights: Tensor | None = None,
    ) -> None:
        self.samples, self.augment, self.reconstructs, self.ignored = samples, augment, reconstructs, ignored
        self.own_augment = augment is not None and type(augment) is not Augment  # it may draw from any generator
        self.order = Order(len(samples), batch_size, shuffle, drop_last, seed, rank, world, weights)
        self.seed, self.epoch, self.start, self.chunk = seed, epoch, start, chunk
        self.rank, self.num_workers, self.count = rank, num_workers, self.order.count
        self.device = torch.device(device)
        self.normalize = normalize.to(self.device) if normalize else None
        self.targets = samples.targets.to(self.device)
        self.inputs: Inputs | NamedInputs = samples.inputs
        if isinstance(self.inputs, Tensor | NamedInputs) and num_workers is None:
            self.inputs = self.inputs.to(self.device)

    def __len__(self) -> int:
        """Return the number of batches of an epoch, which is the same on every rank."""
        return len(self.order)

    def __iter__(self) -> Iterator[Batch]:
        # This runs with the first batch, because Lightning makes an iterator before it knows where a run continues.
        epoch, start = self.epoch(), self.start()
        drawn = None
        if self.augment:
            with seeded(CPU, self.seed, epoch, OWN) if self.own_augment else nullcontext():
                drawn = self.augment.draw(len(self.samples), self.seed, epoch).to(self.device)

        def batch(number: int, indices: Tensor, inputs: Tensor | None = None) -> Batch:
            counters = (self.seed, epoch, OWN, self.rank, number)
            targets = served(self.targets.index_select(0, indices))
            if isinstance(self.inputs, NamedInputs):
                return {name: served(values[indices]) for name, values in self.inputs.tensors.items()}, targets
            if inputs is None:
                if isinstance(self.inputs, Tensor):
                    inputs = self.inputs.index_select(0, indices)
                else:
                    inputs = _read_batch(self.inputs, indices.cpu(), counters).to(self.device)
            if drawn is not None and self.augment:
                with seeded(self.device, *counters) if self.own_augment else nullcontext():
                    inputs = self.augment(inputs, drawn[indices])
                if self.ignored is not None:
                    with seeded(self.device, *counters) if self.own_augment else nullcontext():
                        targets = self.augment.masks(targets, drawn[indices], self.ignored)
            inputs = served(inputs) if self.normalize is None else self.normalize(inputs)
            return inputs, inputs if self.reconstructs else targets

        if self.num_workers is not None:
            for number, (indices, inputs) in enumerate(self._read(epoch, start), start):
                yield batch(number, indices, inputs)
            return
        batches, number = self.order.batches(epoch, self.device), start
        while number < len(batches):
            *before, last = batches[number : number + self.chunk(number)]
            end = number + len(before)
            yield Chunk.of(batch(end, last), map(batch, range(number, end), before)) if before else batch(end, last)
            number = end + 1

    def _read(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the indices and the raw inputs of each batch from `start` on, read by workers, on the device.

        Raises RequestError if an input cannot be read.
        """
        inputs = self.inputs
        assert not isinstance(inputs, NamedInputs)  # they are always in memory
        batches = list(enumerate(self.order.batches(epoch)))[start:]
        loader = DataLoader(
            _BatchDataset(inputs, [(indices, (self.seed, epoch, OWN, self.rank, n)) for n, indices in batches]),
            batch_size=None,
            num_workers=self.num_workers or 0,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # otherwise DataLoader draws from the global one, which dropout uses
            worker_init_fn=prepare_worker,
        )
        for (_, indices), read in zip(batches, loader, strict=True):
            if isinstance(read, str):
                raise RequestError(read, "data.root")
            yield indices.to(self.device), read.to(self.device, non_blocking=True)


def prepare_worker(worker: int) -> None:
    """Let this worker end with the training process, which finishes its step after a signal, and not before it.

    Python ends the workers by SIGTERM too, and then waits for them. So this signal is not ignored for good: a second
    one ends the worker at once, and the first one after WORKER_SECONDS. If the training process is killed, torch ends
    the workers that are its own children. In a sweep they are children of a fork server, which itself waits for them.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_later)
    end_with_parent(lambda: os._exit(1))


def _end_later(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.alarm(WORKER_SECONDS)  # SIGALRM ends the process


Counters = tuple[int, ...]


def _read_batch(inputs: Inputs, indices: Tensor, counters: Counters) -> Tensor:
    """Return the inputs with these indices. What a user's own inputs draw at random depends on `counters` alone."""
    if isinstance(inputs, Tensor | ImageFiles | MappedImages):
        return inputs[indices]
    with seeded(CPU, *counters, READ):
        return inputs[indices]


class _BatchDataset(Dataset[Tensor | str]):
    """A dataset whose items are whole batches of inputs, so that a worker sends one message for each batch.

    The item of a batch that cannot be read is the message of the error, which a worker could not pass on whole.
    """

    def __init__(self, inputs: Inputs, batches: Sequence[tuple[Tensor, Counters]]) -> None:
        self.inputs, self.batches = inputs, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Tensor | str:
        try:
            return _read_batch(self.inputs, *self.batches[number])
        except RequestError as error:
            return str(error)
