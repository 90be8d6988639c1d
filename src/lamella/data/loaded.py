"""Batches that a loader of another makes, one after another, with what is random in them seeded."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader

from lamella.data.chunk import Batch
from lamella.data.loader import prepare_worker
from lamella.errors import RequestError, own_frames
from lamella.seeds import ORDER, READ, mixed, seeded

END = object()


class LoadedBatches:
    """Iterates over the batches of one epoch that `loader` makes.

    loader: an iterable of batches, as torch's DataLoader. convert: makes inputs and targets of such a batch. title: the
    name of what has made the loader, for messages. device: on which `convert` may draw random numbers. epoch: returns
    the number of the epoch that begins. The attribute `start` returns the number of its first batch, which is above 0
    after an interruption: the batches before it are made, and left out.

    Each batch is made with all random generators seeded by (seed, epoch, number), so that it does not matter when that
    happens, and what is random in between. A generator of the loader or of its sampler is seeded by (seed, epoch), and
    `set_epoch` is called where the loader, its sampler or its dataset has it. Raises RequestError where no batch can be
    made.
    """

    jumps = False  # the batches before another have to be made

    def __init__(
        self,
        loader: Iterable[object],
        convert: Callable[[object], Batch],
        title: str,
        seed: int,
        device: torch.device,
        epoch: Callable[[], int] = lambda: 0,
    ) -> None:
        self.loader, self.convert, self.title = loader, convert, title
        self.seed, self.device, self.epoch = seed, device, epoch
        self.start: Callable[[], int] = lambda: 0
        if isinstance(loader, DataLoader) and loader.num_workers:
            loader.worker_init_fn = partial(_prepare, loader.worker_init_fn)

    def __len__(self) -> int:
        """Return the number of batches of an epoch. Raises TypeError where it is not known."""
        return len(self.loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Batch]:
        epoch, start, number = self.epoch(), self.start(), 0
        iterator: Iterator[object] | None = None
        while True:
            with seeded(self.device, self.seed, epoch, READ, number):
                try:
                    if iterator is None:
                        _begin_epoch(self.loader, self.seed, epoch)
                        iterator = iter(self.loader)
                    given = next(iterator, END)
                except Exception as error:
                    # What a worker raises comes as a text, whose last line is the error.
                    cause = (str(error).strip().splitlines() or [""])[-1]
                    cause = cause if "worker process" in str(error) else f"{type(error).__name__}: {cause}"
                    raise RequestError(
                        f"data: {self.title} cannot make batch {number} of an epoch: {cause}{own_frames(error)}", "data"
                    ) from error
                batch = self.convert(given) if given is not END and number >= start else None
            if given is END:
                return
            if batch is not None:
                yield batch
            number += 1


def _begin_epoch(loader: Iterable[object], seed: int, epoch: int) -> None:
    """Seed the generators of a loader and of its sampler, and tell the epoch to all that has `set_epoch`."""
    parts = [loader, *(getattr(loader, name, None) for name in ("sampler", "batch_sampler", "dataset"))]
    parts.append(getattr(parts[2], "sampler", None))
    for part in {id(part): part for part in parts if part is not None}.values():
        if isinstance(generator := getattr(part, "generator", None), torch.Generator):
            generator.manual_seed(mixed(seed, epoch, ORDER))
        if callable(set_epoch := getattr(part, "set_epoch", None)):
            set_epoch(epoch)


def _prepare(own: Callable[[int], None] | None, worker: int) -> None:
    """Prepare a worker as Lamella's own, and then as its loader asks for."""
    prepare_worker(worker)
    if own is not None:
        own(worker)


def loader_length(loader: Any) -> int | None:
    """Return the number of batches of a loader, None where it is not known."""
    try:
        return len(loader)
    except TypeError:
        return None
