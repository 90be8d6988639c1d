"""Divide samples into folds for cross-validation: each fold validates once what is trained on the others."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lamella.data.groups import first_equal, joined
from lamella.data.samples import Samples, Splits, split_samples
from lamella.errors import RequestError

TEST = -1  # the fold of the samples that are cut off for the test


@dataclass(frozen=True)
class Folds:
    """The fold of each training sample of a source, int64 (N,), TEST for those of the test, and the one that validates.

    Where each sample has a class, each fold has its share of each class, as scikit-learn's StratifiedKFold with
    `shuffle=True` and `random_state=split_seed` divides the samples; others are divided as by its KFold. Samples in
    groups are divided as by its StratifiedGroupKFold and GroupKFold. grouping: what a user should know of the groups.
    """

    numbers: Tensor
    fold: int
    grouping: Sequence[str] = ()

    @classmethod
    def of(
        cls,
        source: Splits,
        folds: int | None,
        fold: int | None,
        sizes: tuple[int | float, int | float],
        seed: int,
        classes: Sequence[str],
        group_duplicates: bool = False,
    ) -> "Folds | None":
        """Divide the samples of a source that are not for the test; None where `folds` is None.

        folds: how many parts, chosen by `seed`. fold: the one that validates. sizes: val_size and test_size, as in
        `Data`. classes: their names. group_duplicates: whether samples of equal inputs are in one fold. Raises
        RequestError where these do not fit together, and where there are fewer groups, or fewer samples of a class,
        than folds.
        """
        fold = _checked_fold(source, folds, fold, sizes[0])
        if folds is None or fold is None:
            return None
        targets = source.train.targets
        positions = torch.arange(len(targets))
        if source.test is None:
            whole = Samples(positions, positions, source.train.groups)
            positions = split_samples(whole, sizes[1], seed + 1, "data.test_size")[0].targets
        groups, grouping = _groups_of(source.train, positions, group_duplicates)
        numbers = torch.full((len(targets),), TEST)
        random = np.random.RandomState(seed % 2**32)
        numbers[positions] = torch.from_numpy(_divided(targets[positions], groups, folds, random, classes))
        return cls(numbers, fold, grouping)

    def splits(self, source: Splits) -> tuple[Samples, Samples, Samples]:
        """Return the training, validation and test samples."""
        is_test, validates = self.numbers == TEST, self.numbers == self.fold
        train, val, test = (
            source.train.take(chosen.nonzero().flatten()) for chosen in (~is_test & ~validates, validates, is_test)
        )
        return train, val, source.test or test

    def notes(self, train: Samples, val: Samples) -> list[str]:
        """Return notes on the groups, and on samples in memory that equal samples of another fold.

        train, val: as the network takes them.
        """
        if not isinstance(train.inputs, Tensor) or not isinstance(val.inputs, Tensor):
            return [*self.grouping]
        trained = (self.numbers != TEST) & (self.numbers != self.fold)
        folds = torch.cat([self.numbers[trained], torch.full((len(val),), self.fold)])
        first = first_equal(torch.cat([train.inputs, val.inputs]))
        assert first is not None
        # An input is in several folds if one of the samples is in another fold than the first of them.
        count = int(torch.isin(first, first[folds != folds[first]]).sum())
        note = f"{count:,} samples equal one of another fold, which validates what was trained on it"
        return [*self.grouping, *[note] * bool(count)]


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


def _groups_of(samples: Samples, positions: Tensor, duplicates: bool) -> tuple[Tensor | None, list[str]]:
    """Return the group of each sample at `positions` (N,), None where each stands alone, and notes.

    duplicates: whether equal samples form a group.
    """
    groups = None if samples.groups is None else samples.groups[positions]
    if not duplicates:
        return groups, []
    first = first_equal(samples.inputs)
    if first is None:
        return groups, ["the inputs are read later and not compared; equal ones may be in several folds"]
    first = first[positions]
    copies = len(first) - len(np.unique(first.numpy()))
    if not copies:
        return groups, []
    note = f"{copies:,} samples equal an earlier one, and are in its fold; data.group_duplicates=false divides them"
    return first if groups is None else joined(groups, first), [note]


def _divided(
    targets: Tensor, groups: Tensor | None, folds: int, random: np.random.RandomState, classes: Sequence[str]
) -> np.ndarray:
    """Return the fold of each sample (N,). targets: (N, …). groups: of the samples (N,), None where each is alone."""
    has_classes = targets.dim() == 1 and not targets.is_floating_point()
    if groups is None and has_classes:
        return _stratified(targets.numpy(), folds, random, classes)
    if groups is None:
        return _shuffled(len(targets), folds, random)
    names, numbers = np.unique(groups.numpy(), return_inverse=True)
    if len(names) < folds:
        raise _too_many(folds, f"{len(names)} groups of samples that are not divided")
    if has_classes:
        return _stratified_groups(targets.numpy(), numbers, folds, random)
    division: np.ndarray = _shuffled(len(names), folds, random)[numbers]
    return division


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


def _stratified_groups(
    targets: np.ndarray, groups: np.ndarray, folds: int, random: np.random.RandomState
) -> np.ndarray:
    """Return the fold of each sample (N,): a group goes where it makes the shares of the classes most alike.

    targets: class indices (N,). groups: of the samples, from 0 on (N,). The groups whose classes are most unequal are
    dealt first, and of equally good folds the smallest takes a group.
    """
    labels = np.unique(targets, return_inverse=True)[1]
    counts = np.zeros((groups.max() + 1, labels.max() + 1))
    np.add.at(counts, (groups, labels), 1)
    order = np.arange(len(counts))
    random.shuffle(order)
    order = order[np.argsort(-counts[order].std(axis=1), kind="stable")]
    held, division = np.zeros((folds, counts.shape[1])), np.empty(len(counts), dtype=np.int64)
    into = np.eye(folds)[:, :, None]  # for each fold that may take a group, what it adds to each fold
    for one in order:
        spreads = ((held + into * counts[one]) / counts.sum(0)).std(axis=1).mean(axis=1).tolist()
        sizes, best = held.sum(1).tolist(), 0
        for fold in range(1, folds):
            # The tolerance of numpy.isclose, because equal spreads may differ by rounding.
            near = spreads[fold] - spreads[best] <= 1e-8 + 1e-5 * spreads[best]
            if spreads[fold] < spreads[best] or (near and sizes[fold] < sizes[best]):
                best = fold
        held[best] += counts[one]
        division[one] = best
    chosen: np.ndarray = division[groups]
    return chosen


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
