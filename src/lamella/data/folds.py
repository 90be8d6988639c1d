"""Divide samples into folds for cross-validation: each fold validates once what is trained on the others."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lamella.data.samples import Samples, Splits, split_samples
from lamella.errors import RequestError

TEST = -1  # the fold of the samples that are cut off for the test


@dataclass(frozen=True)
class Folds:
    """The fold of each training sample of a source, int64 (N,), TEST for those of the test, and the one that validates.

    Where each sample has a class, each fold has its share of each class, as scikit-learn's StratifiedKFold with
    `shuffle=True` and `random_state=split_seed` divides the samples; others are divided as by its KFold.
    """

    numbers: Tensor
    fold: int

    @classmethod
    def of(
        cls,
        source: Splits,
        folds: int | None,
        fold: int | None,
        sizes: tuple[int | float, int | float],
        seed: int,
        classes: Sequence[str],
    ) -> "Folds | None":
        """Divide the samples of a source that are not for the test; None where `folds` is None.

        folds, fold, seed, classes: as in `Data`. sizes: val_size and test_size. Raises RequestError where these do not
        fit together, and where a class has fewer samples than there are folds.
        """
        fold = _checked_fold(source, folds, fold, sizes[0])
        if folds is None or fold is None:
            return None
        targets = source.train.targets
        positions = torch.arange(len(targets))
        if source.test is None:
            positions = split_samples(Samples(positions, positions), sizes[1], seed + 1, "data.test_size")[0].targets
        random = np.random.RandomState(seed % 2**32)
        has_classes = targets.dim() == 1 and not targets.is_floating_point()
        numbers = torch.full((len(targets),), TEST)
        numbers[positions] = torch.from_numpy(
            _stratified(targets[positions].numpy(), folds, random, classes)
            if has_classes
            else _shuffled(len(positions), folds, random)
        )
        return cls(numbers, fold)

    def splits(self, source: Splits) -> tuple[Samples, Samples, Samples]:
        """Return the training, validation and test samples."""
        is_test, validates = self.numbers == TEST, self.numbers == self.fold
        train, val, test = (
            source.train.take(chosen.nonzero().flatten()) for chosen in (~is_test & ~validates, validates, is_test)
        )
        return train, val, source.test or test

    def notes(self, train: Samples, val: Samples) -> list[str]:
        """Return a note if samples in memory equal samples of another fold. train, val: as the network takes them."""
        if not isinstance(train.inputs, Tensor) or not isinstance(val.inputs, Tensor):
            return []
        trained = (self.numbers != TEST) & (self.numbers != self.fold)
        folds = [*self.numbers[trained].tolist(), *[self.fold] * len(val)]
        copies: defaultdict[bytes, list[int]] = defaultdict(list)
        rows = (row for inputs in (train.inputs, val.inputs) for row in inputs.numpy())
        for row, fold in zip(rows, folds, strict=True):
            copies[row.tobytes()].append(fold)
        count = sum(len(those) for those in copies.values() if len(set(those)) > 1)
        return [f"{count:,} samples equal one of another fold, which validates what was trained on it"] * bool(count)


def _checked_fold(source: Splits, folds: int | None, fold: int | None, val_size: int | float) -> int | None:
    """Return the fold that validates. Raises RequestError where the keys of cross-validation do not fit together."""
    if folds is None:
        if fold is None:
            return None
        raise RequestError(
            f"data.fold is {fold}, and data.folds is null; write how many there are, as data.folds=5", "data.fold"
        )
    if folds < 2:
        raise RequestError(f"data.folds is {folds}; it takes 2 or more, or null for none", "data.folds")
    if source.val is not None:
        raise RequestError(
            f"data.folds is {folds}, but the source has validation samples of its own; leave data.folds null",
            "data.folds",
        )
    if val_size == 0:
        raise RequestError(
            "data.val_size is 0, but with data.folds the samples of a fold validate; leave one of them out",
            "data.val_size",
        )
    if fold is None:
        raise RequestError(
            f"data.folds is {folds}, and data.fold is null; write data.fold=0 for one run, or\n"
            f"  `lamella train -m data.folds={folds}` for a run with each fold",
            "data.fold",
        )
    if not 0 <= fold < folds:
        raise RequestError(f"data.fold is {fold}; with data.folds={folds} it takes 0 to {folds - 1}", "data.fold")
    return fold


def _stratified(targets: np.ndarray, folds: int, random: np.random.RandomState, classes: Sequence[str]) -> np.ndarray:
    """Return the fold of each sample (N,), chosen at random within its class. targets: class indices (N,)."""
    numbers = np.empty(len(targets), dtype=np.int64)
    dealt = 0  # the samples of each class are dealt to the folds in turn, beginning where the class before has ended
    for label in dict.fromkeys(targets.tolist()):  # in the order in which the classes first occur
        positions = np.flatnonzero(targets == label)
        if len(positions) < folds:
            name = classes[label] if 0 <= label < len(classes) else label
            raise _too_many(folds, f"{len(positions)} samples of class {name}")
        share = np.sort(np.arange(dealt, dealt + len(positions)) % folds)
        random.shuffle(share)
        numbers[positions] = share
        dealt += len(positions)
    return numbers


def _shuffled(count: int, folds: int, random: np.random.RandomState) -> np.ndarray:
    """Return the fold of each of `count` samples (count,), chosen at random."""
    if count < folds:
        raise _too_many(folds, f"{count} samples")
    numbers = np.empty(count, dtype=np.int64)
    for fold, part in enumerate(np.array_split(random.permutation(count), folds)):
        numbers[part] = fold
    return numbers


def _too_many(folds: int, found: str) -> RequestError:
    return RequestError(
        f"data.folds is {folds}, but beside the test there are {found}; each fold needs one", "data.folds"
    )
