"""Map-style datasets of the project's own or of torchvision, whose samples are read one by one."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset

from lamella.data.checks import check_batches
from lamella.data.chunk import Batch
from lamella.data.items import Collate, Reading, collated
from lamella.data.loader import CPU, read_batches
from lamella.data.sampler import Order
from lamella.data.samples import Samples, Splits, cut_splits
from lamella.errors import RequestError, first_line, own_frames
from lamella.seeds import READ, kept_random_state, mixed, reseed

FIRST = 8  # samples of each split that are read before a run starts


class Datasets:
    """The training, validation and test samples, each a map-style `torch.utils.data.Dataset`.

    train, val, test: the datasets. If val or test is None, so many samples of the training dataset are taken as
    val_size or test_size says, a count or a fraction, chosen by `split_seed`; with a val_size of 0 there is no
    validation. collate: makes a batch of a list of items, None for torch's default_collate. batch_size: of one
    optimizer step, over all devices. drop_last: leave out the last batch of an epoch if it is smaller than the others.
    num_workers: how many processes read samples; with 0 the training process reads them.

    What a dataset draws from the generators of torch, NumPy and Python for a sample depends on (seed, epoch, index)
    alone, and what `collate` draws on (seed, epoch, index of the first sample). Raises RequestError.
    """

    def __init__(
        self,
        train: Dataset[object],
        val: Dataset[object] | None = None,
        test: Dataset[object] | None = None,
        collate: Collate | None = None,
        batch_size: int = 64,
        val_size: int | float = 0.1,
        test_size: int | float = 0.1,
        split_seed: int = 0,
        drop_last: bool = False,
        num_workers: int = 0,
    ) -> None:
        given = {name: one for name, one in (("train", train), ("val", val), ("test", test)) if one is not None}
        for name, dataset in given.items():
            _check_map_style(dataset, name)
        if collate is not None and not callable(collate):
            raise RequestError(f"data.collate is {collate!r}; it takes the name of a function", "data.collate")
        self.collate, self.batch_size, self.drop_last, self.num_workers = collate, batch_size, drop_last, num_workers
        self.cut = [name for name in ("val", "test") if name not in given]
        numbers = {name: _numbers(dataset) for name, dataset in given.items()}
        source = Splits(numbers["train"], numbers.get("val"), numbers.get("test"))
        parts = zip(("train", "val", "test"), cut_splits(source, val_size, test_size, split_seed), strict=True)
        self.splits = {name: Subset(given.get(name, train), part.targets.tolist()) for name, part in parts}
        self.sizes = {name: len(dataset) for name, dataset in self.splits.items()}
        check_batches(batch_size, drop_last, num_workers, self.sizes["train"])

    def first(self, name: str, read: Reading) -> Batch:
        """Return the batch of the first samples of a split. Raises RequestError for one that cannot be in a batch."""
        return self.read(name, read, torch.arange(min(FIRST, self.sizes[name])))

    def read(self, name: str, read: Reading, numbers: Tensor) -> Batch:
        """Return the batch of the samples of a split with these numbers, as the first epoch reads them.

        Raises RequestError for one that cannot be in a batch.
        """
        return _read(self.splits[name], self._place(name), self.collate, read, 0, numbers, 0)

    def _place(self, name: str) -> str:
        """Return the key of the dataset of a split."""
        return f"data.{'train' if name in self.cut else name}"

    def batches(
        self,
        name: str,
        read: Reading,
        seed: int,
        *,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        num_workers: int = 0,
        epoch: Callable[[], int] = lambda: 0,
    ) -> "ItemBatches":
        """Return the loader of a split; that of the training samples draws a new order for each epoch.

        read: as in `collated`. seed: of the order and of what is random. rank, world: as in `Order`. The other
        arguments are those of ItemBatches.
        """
        shuffle = name == "train"
        order = Order(self.sizes[name], self.batch_size, shuffle, shuffle and self.drop_last, seed, rank, world)

        read_batch = partial(_read, self.splits[name], self._place(name), self.collate, read, seed)
        return ItemBatches(read_batch, order, torch.device(device), num_workers, epoch)


class ItemBatches:
    """Iterates over the batches of one epoch: inputs (B, …) or named inputs, and targets (B, …), on `device`.

    read: returns the batch of the samples with these indices (B,) in an epoch. order: the indices of each batch.
    num_workers: how many processes read; with 0 it is this one. epoch: returns the number of the epoch that begins. The
    attribute `start` returns the number of its first batch, which is above 0 after an interruption.
    """

    jumps = True  # a batch is made without those before it

    def __init__(
        self,
        read: Callable[[Tensor, int], Batch],
        order: Order,
        device: torch.device,
        num_workers: int,
        epoch: Callable[[], int],
    ) -> None:
        self.read, self.order, self.device, self.num_workers, self.epoch = read, order, device, num_workers, epoch
        self.start: Callable[[], int] = lambda: 0

    def __len__(self) -> int:
        """Return the number of batches of an epoch, which is the same on every rank."""
        return len(self.order)

    def __iter__(self) -> Iterator[Batch]:
        epoch, start = self.epoch(), self.start()
        batches = _BatchDataset(self.read, self.order.batches(epoch), epoch)
        for batch in read_batches(batches, start, self.num_workers, self.device):
            yield on_device(batch, self.device)


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Return a batch on `device`."""
    inputs, targets = batch
    if isinstance(inputs, Tensor):
        return inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True)
    moved = {name: one.to(device, non_blocking=True) for name, one in inputs.items()}
    return moved, targets.to(device, non_blocking=True)


class _BatchDataset(Dataset[Batch | RequestError]):
    """A dataset whose items are whole batches, so that a worker sends one message for each batch.

    The item of a batch that cannot be read is the error, which DataLoader would wrap in a text of its own.
    """

    def __init__(self, read: Callable[[Tensor, int], Batch], batches: Sequence[Tensor], epoch: int) -> None:
        self.read, self.batches, self.epoch = read, batches, epoch

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Batch | RequestError:
        try:
            return self.read(self.batches[number], self.epoch)
        except RequestError as error:
            return RequestError(str(error), error.key)  # without what it was raised from, which may not be sent


def _read(
    dataset: Subset[object], place: str, collate: Collate | None, read: Reading, seed: int, indices: Tensor, epoch: int
) -> Batch:
    """Return the batch of samples with these indices. Raises RequestError, which names the item that is to blame.

    place: the key of the dataset.
    """
    items, numbers = [], [dataset.indices[index] for index in indices.tolist()]
    places = [f"item {number} of {place}" for number in numbers]
    with kept_random_state(CPU):
        for number, item in zip(numbers, places, strict=True):
            reseed(mixed(seed, epoch, READ, number), CPU)
            try:
                items.append(dataset.dataset[number])
            except Exception as error:
                raise RequestError(
                    f"data: {item} cannot be read: {type(error).__name__}: {first_line(error)}{own_frames(error)}",
                    "data",
                ) from error
        reseed(mixed(seed, epoch, READ, numbers[0], 0), CPU)
        return collated(items, places, collate, read)


def _check_map_style(dataset: object, name: str) -> None:
    """Raise RequestError for anything but a dataset with a length, whose samples have numbers."""
    title = type(dataset).__name__
    if isinstance(dataset, IterableDataset):
        raise RequestError(
            f"data.{name} is a {title}, an IterableDataset, whose samples have no numbers; take data=iterable",
            f"data.{name}",
        )
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise RequestError(f"data.{name} is a {title}; it takes a dataset with __getitem__ and __len__", f"data.{name}")


def _numbers(dataset: Dataset[object]) -> Samples:
    """Return the numbers of the samples of a dataset in their place, to be cut into splits."""
    numbers = torch.arange(len(dataset))  # type: ignore[arg-type]
    return Samples(numbers, numbers)
