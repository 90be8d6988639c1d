"""The loader that makes the batches of an epoch: each by one index operation and one conversion, nothing per sample.

The order of the samples is a pure function of (seed, epoch), and the augmentation of a sample of (seed, epoch, index).
What is drawn for a batch as a whole is a function of (seed, epoch, rank, batch). So there is no random state to save,
and the number of workers does not change the batches.
"""

import copy
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lamella.data.augmentation import Augmentation, EpochAugmentation
from lamella.data.cache import MappedImages
from lamella.data.chunk import Batch, Chunk
from lamella.data.images import ImageFiles
from lamella.data.normalize import Normalize
from lamella.data.sampler import Order
from lamella.data.samples import Inputs, NamedInputs, Samples, served
from lamella.errors import RequestError
from lamella.interrupts import SIGNALS, end_with_parent
from lamella.seeds import OWN, READ, seeded

T = TypeVar("T")
CPU = torch.device("cpu")

Read = tuple[Tensor, Tensor | None]  # inputs and masks
SharedBatches = dict[int, tuple[tuple[int, int], Batch]]  # by the seed: the epoch and number of a batch, and the batch
Counters = tuple[int, ...]
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
    samples a batch has. The attribute `shared` holds the last batches of loaders that differ in their seeds alone: a
    batch of a chunk, but not its last one, is made once for all loaders of a seed; None makes each batch anew.
    """

    jumps = True  # a batch is made without those before it

    def __init__(
        self,
        samples: Samples,
        batch_size: int,
        *,
        normalize: Normalize | None = None,
        augment: Augmentation | None = None,
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
        self.order = Order(len(samples), batch_size, shuffle, drop_last, seed, rank, world, weights)
        self.seed, self.epoch, self.start, self.chunk = seed, epoch, start, chunk
        self.shared: SharedBatches | None = None
        self.rank, self.num_workers = rank, num_workers
        self.device = torch.device(device)
        self.normalize = normalize.to(self.device) if normalize else None
        self.targets = samples.targets.to(self.device)
        self.inputs: Inputs | NamedInputs = samples.inputs
        if isinstance(self.inputs, Tensor | NamedInputs) and num_workers is None:
            self.inputs = self.inputs.to(self.device)

    def __len__(self) -> int:
        """Return the number of batches of an epoch, which is the same on every rank."""
        return len(self.order)

    def first_epoch(self) -> "Batches":
        """Return a loader that shares the samples, and always serves the batches of the first epoch one by one."""
        other = copy.copy(self)
        other.epoch, other.start, other.chunk = lambda: 0, lambda: 0, lambda number: 1
        return other

    def __iter__(self) -> Iterator[Batch]:
        # This runs with the first batch, because Lightning makes an iterator before it knows where a run continues.
        epoch, start = self.epoch(), self.start()
        parts = self.order.batches(epoch)
        placed = parts if self.device.type == "cpu" else self.order.batches(epoch, self.device)
        changes = self.augment.for_epoch(len(self.samples), self.seed, epoch, self.rank) if self.augment else None
        reads = self.num_workers is not None
        inputs = _Inputs(
            self.inputs,
            None if self.ignored is None else self.samples.targets if reads else self.targets,
            self.ignored,
            parts,
            parts if reads else placed,
            changes,
            (self.seed, epoch, OWN, self.rank),
        )

        def batch(number: int, read: Read | None = None) -> Batch:
            targets = served(self.targets.index_select(0, placed[number]))
            if isinstance(self.inputs, NamedInputs):
                return {name: served(values[placed[number]]) for name, values in self.inputs.tensors.items()}, targets
            images, masks = read or inputs.read(number)
            images = served(images) if self.normalize is None else self.normalize(images)
            targets = images if self.reconstructs else targets if masks is None else masks
            return changes.mix(images, targets, number) if changes else (images, targets)

        def before(number: int) -> Batch:
            """Return a batch of a chunk other than the last one."""
            if (shared := self.shared) is None:
                return batch(number)
            if self.seed not in shared or shared[self.seed][0] != (epoch, number):
                shared[self.seed] = (epoch, number), batch(number)
            return shared[self.seed][1]

        if self.num_workers is not None:
            for number, read in enumerate(self._read(inputs, start), start):
                yield batch(number, read)
            return
        number = start
        while number < len(parts):
            last = min(number + self.chunk(number), len(parts)) - 1
            yield Chunk.of(batch(last), map(before, range(number, last))) if number < last else batch(last)
            number = last + 1

    def _read(self, inputs: "_Inputs", start: int) -> Iterator[Read]:
        """Yield the inputs and masks of each batch from `start` on, read by workers, on the device.

        Raises RequestError if an input cannot be read or augmented.
        """
        for images, masks in read_batches(inputs, start, self.num_workers or 0, self.device):
            yield images.to(self.device, non_blocking=True), None if masks is None else masks.to(self.device)


def read_batches(batches: Dataset[T | RequestError], start: int, workers: int, device: torch.device) -> Iterator[T]:
    """Yield the batches from number `start` on, read by so many workers; with 0 this process reads them.

    batches: a dataset whose items are whole batches, so that a worker sends one message for each, or the error that a
    batch ends in. device: to which they are moved then. Raises such an error.
    """
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=range(start, len(batches)),  # type: ignore[arg-type]
        num_workers=workers,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # otherwise DataLoader draws from the global one, which dropout uses
        worker_init_fn=prepare_worker,
    )
    for batch in loader:
        if isinstance(batch, RequestError):
            raise batch
        yield batch


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


def _read_batch(inputs: Inputs, indices: Tensor, counters: Counters) -> Tensor:
    """Return the inputs with these indices. What a user's own inputs draw at random depends on `counters` alone."""
    if isinstance(inputs, Tensor | ImageFiles | MappedImages):
        return inputs[indices]
    with seeded(CPU, *counters, READ):
        return inputs[indices]


class _Inputs(Dataset[Read | RequestError]):
    """The inputs of each batch of an epoch, augmented, and its masks. An item is a whole batch.

    inputs: of all samples. masks: those that move with the inputs, None if there are none. ignored: as of Batches.
    parts: the indices of the samples of each batch, on the CPU. placed: the same, where the inputs are. changes: the
    augmentation, None for none. counters: of the epoch and the process, for inputs of a user's own.
    """

    def __init__(
        self,
        inputs: Inputs | NamedInputs,
        masks: Tensor | None,
        ignored: int | None,
        parts: Sequence[Tensor],
        placed: Sequence[Tensor],
        changes: EpochAugmentation | None,
        counters: Counters,
    ) -> None:
        self.inputs, self.masks, self.ignored, self.parts, self.placed = inputs, masks, ignored, parts, placed
        self.changes, self.counters = changes, counters

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> Read | RequestError:
        """Return a batch or, because a worker could not pass an exception on whole, the error that it ends in."""
        try:
            return self.read(number)
        except RequestError as error:
            return RequestError(str(error), error.key)

    def read(self, number: int) -> Read:
        """Return the inputs of a batch (B, …), and its masks (B, height, width) or None. Raises RequestError."""
        part, indices, inputs = self.parts[number], self.placed[number], self.inputs
        assert not isinstance(inputs, NamedInputs)
        if isinstance(inputs, Tensor):
            images = inputs.index_select(0, indices)
        else:
            images = _read_batch(inputs, part, (*self.counters, number))
            if indices.device.type == "cuda":  # pinned memory is copied while the device computes
                images = images.pin_memory()
            images = images.to(indices.device, non_blocking=True)
        masks = None if self.masks is None else served(self.masks.index_select(0, indices))
        return self.changes.change(images, masks, self.ignored, part, number) if self.changes else (images, masks)
