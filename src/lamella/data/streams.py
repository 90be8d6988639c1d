"""Streams: datasets of the project's own whose samples come one after another."""

import pytorch_lightning as pl
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lamella.data.items import Collate
from lamella.errors import RequestError


class Streams(pl.LightningDataModule):
    """A datamodule for the training, validation and test samples, each a `torch.utils.data.IterableDataset`.

    train, val, test: the datasets. Without val there is no validation, and without test no test. collate: makes a batch
    of a list of items, None for torch's default_collate. batch_size: of one optimizer step; None if an item is a whole
    batch. drop_last: leave out the last batch of an epoch if it is smaller than the others. num_workers: 1 if another
    process reads the samples. Raises RequestError.
    """

    def __init__(
        self,
        train: Dataset[object],
        val: Dataset[object] | None = None,
        test: Dataset[object] | None = None,
        collate: Collate | None = None,
        batch_size: int | None = 64,
        drop_last: bool = False,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.splits = {"train": train, "val": val, "test": test}
        for name, dataset in self.splits.items():
            if dataset is not None and not isinstance(dataset, IterableDataset):
                raise RequestError(
                    f"data.{name} is a {type(dataset).__name__}, which is no IterableDataset; data=dataset takes one "
                    "whose samples have numbers",
                    f"data.{name}",
                )
        if num_workers not in (0, 1):
            raise RequestError(
                f"data.num_workers is {num_workers}; it takes 0 or 1, because each of several processes would give all "
                "samples of the stream",
                "data.num_workers",
            )
        if batch_size is not None and batch_size < 1:
            raise RequestError(f"data.batch_size is {batch_size}; it takes 1 or more", "data.batch_size")
        if batch_size is None and drop_last:
            raise RequestError("data.drop_last is true, but data.batch_size is null; leave it false", "data.drop_last")
        self.options = {
            "collate_fn": collate,
            "batch_size": batch_size,
            "drop_last": drop_last,
            "num_workers": num_workers,
        }

    def _loader(self, name: str) -> DataLoader[object] | list[object]:
        dataset = self.splits[name]
        return [] if dataset is None else DataLoader(dataset, **self.options)  # type: ignore[arg-type]

    def train_dataloader(self) -> DataLoader[object] | list[object]:
        """Return the loader of the training samples."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[object] | list[object]:
        """Return the loader of the validation samples, or an empty list."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[object] | list[object]:
        """Return the loader of the test samples, or an empty list."""
        return self._loader("test")
