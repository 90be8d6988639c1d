"""What `lamella check-data` warns of: samples that are equal or alike, damaged, constant, or missing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lamella.data import Data, RunData, TableEncoder
from lamella.data.duplicates import equal_groups
from lamella.data.near_duplicates import similar_pairs
from lamella.data.summary import WORDS, class_notes, counted
from lamella.data.survey import Survey

SHOWN = 5  # samples and pairs that a warning names
COMMON = 0.05  # of the images; where more of them look like another one, that is likely to be their nature
MEAN_OFF, STD_OFF = 0.05, 1.25  # how far data.mean, and by what factor data.std, may be from what was measured


@dataclass(frozen=True)
class Findings:
    """The warnings and notes, and what they are about by name.

    equal: the names of the samples with one input, of each group of them. alike: the names and the correlation of each
    pair of images that look alike. A name has its split in front, as in "train: cat/1.png".
    """

    warnings: list[str]
    notes: list[str]
    equal: list[list[str]]
    alike: list[tuple[str, str, float]]
    unreadable: list[str]
    constant: list[str]

    def text(self) -> str:
        """Return the warnings and the notes, each on a line."""
        lines = [f"warning: {text}" for text in self.warnings] or ["no warnings"]
        return "\n".join([*lines, *(f"note: {text}" for text in self.notes)])

    def plain(self) -> dict[str, object]:
        """Return all as plain values."""
        return {**vars(self), "alike": [list(pair) for pair in self.alike]}


def find(data: RunData, surveys: Mapping[str, Survey]) -> Findings:
    """Return what is wrong with the samples, or may be. surveys: of each split that has samples or files."""
    notes = [*data.source_notes]
    if not surveys:
        notes.append("the project's own code makes whole batches, one after another, so that no sample is looked at")
    unreadable = [text for one in surveys.values() for text in one.unreadable]
    count = counted(len(unreadable), "file", "files")
    damaged = [f"{count} cannot be read: {_some(unreadable)}"] if unreadable else []
    surveys = {name: one for name, one in surveys.items() if one.names}
    if not surveys:
        return Findings(damaged, notes, [], [], unreadable, [])
    split = np.concatenate([[name] * len(one.names) for name, one in surveys.items()])
    names = [f"{name}: {text}" for name, one in surveys.items() for text in one.names]
    digests = np.concatenate([one.digests for one in surveys.values()])
    targets = torch.cat([one.targets for one in surveys.values()])
    groups = equal_groups(digests)
    constant = [names[number] for number in np.flatnonzero(np.concatenate([one.constant for one in surveys.values()]))]
    alike = _alike(names, surveys, groups)
    images = len({name for one, other, _ in alike for name in (one, other)})
    common = images > COMMON * len(names)  # true of drawings, where a warning would be a false alarm
    alike_text = [_alike_text(alike, images, len(names), common)] if alike else []
    notes += alike_text if common else []
    warnings = [
        *damaged,
        *_equal_warnings(split, names, targets, groups),
        *([] if common else alike_text),
        *_value_warnings(surveys, constant),
        *_column_warnings(data),
        *(class_notes(data.splits, data.classes) if isinstance(data, Data) and data.has_classes else []),
        *([] if not isinstance(data, Data) else _scale_warnings(data, surveys)),
    ]
    equal = [[names[number] for number in group] for group in groups]
    return Findings(warnings, notes, equal, alike, unreadable, constant)


def _equal_warnings(
    split: np.ndarray, names: Sequence[str], targets: torch.Tensor, groups: Sequence[np.ndarray]
) -> Iterator[str]:
    """Yield warnings of samples whose inputs are equal. groups: the numbers of the samples that share an input."""
    flat = targets.flatten(1) if targets.dim() > 1 else targets[:, None]
    within, across, differing = dict[str, list[str]](), dict[tuple[str, str], list[str]](), list[str]()
    for group in groups:
        first = names[group[0]]
        for number in group[1:]:
            pair = f"{names[number]} and {first}"
            if split[number] == split[group[0]]:
                within.setdefault(str(split[number]), []).append(pair)
            else:
                across.setdefault((str(split[number]), str(split[group[0]])), []).append(pair)
            if not torch.equal(flat[number], flat[group[0]]):
                differing.append(pair)
    for (one, other), pairs in across.items():
        count = counted(len(pairs), f"{WORDS[one]} sample has", f"{WORDS[one]} samples have")
        yield f"{count} the input of a {WORDS[other]} sample: {_some(pairs)}"
    for name, pairs in within.items():
        count = counted(len(pairs), f"{WORDS[name]} sample repeats", f"{WORDS[name]} samples repeat")
        yield f"{count} the input of an earlier one: {_some(pairs)}"
    if differing:
        count = counted(len(differing), "of these samples has another target", "of these samples have another target")
        yield f"{count} than the first with this input: {_some(differing)}"


def _alike(
    names: Sequence[str], surveys: Mapping[str, Survey], groups: Sequence[np.ndarray]
) -> list[tuple[str, str, float]]:
    """Return the pairs of images that look alike, without constant ones and repeated inputs."""
    hashes = np.concatenate([one.hashes for one in surveys.values()])
    if len(hashes) != len(names):
        return []
    small = np.concatenate([one.small for one in surveys.values()])
    kept = ~np.concatenate([one.constant for one in surveys.values()])
    for group in groups:
        kept[group[1:]] = False
    rows = np.flatnonzero(kept)
    pairs, correlations = similar_pairs(hashes[rows], small[rows])
    return [
        (names[rows[one]], names[rows[other]], round(float(value), 4))
        for (one, other), value in zip(pairs, correlations, strict=True)
    ]


def _alike_text(alike: Sequence[tuple[str, str, float]], images: int, count: int, common: bool) -> str:
    """Return how many pairs of images look alike. images: how many are in them, of `count`."""
    text = f"{counted(len(alike), 'pair of images looks', 'pairs of images look')} alike"
    text += f", with {images:,} of {count:,} images"
    if crossing := sum(one.partition(":")[0] != other.partition(":")[0] for one, other, _ in alike):
        text += f", {counted(crossing, 'pair', 'pairs')} in two splits"
    if common:
        return f"{text}; where that many are alike, as drawings of digits are, most of them are not copies"
    return f"{text}: {_some([f'{one} and {other} ({value:.3f})' for one, other, value in alike])}"


def _value_warnings(surveys: Mapping[str, Survey], constant: Sequence[str]) -> Iterator[str]:
    if constant:
        yield f"{counted(len(constant), 'input has', 'inputs have')} one value alone: {_some(constant)}"
    for name, one in surveys.items():
        if one.not_finite:
            yield f"{one.not_finite:,} values of {WORDS[name]} inputs are NaN or infinite"


def _column_warnings(data: RunData) -> Iterator[str]:
    """Yield a warning of the columns of a table that hold one value in all training samples."""
    if not isinstance(data.encoder, TableEncoder) or not isinstance(data, Data):
        return
    features = data.train.inputs
    assert isinstance(features, torch.Tensor)
    rows = features.flatten(0, -2)
    same, start, found = (rows == rows[0]).all(0), 0, []
    for name, column in data.encoder.columns.items():
        width = 1 if isinstance(column, Mapping) else len(column)
        if same[start : start + width].all():
            found.append(name)
        start += width
    if found:
        yield f"{counted(len(found), 'column has', 'columns have')} one value in all training samples: {_some(found)}"


def _scale_warnings(data: Data, surveys: Mapping[str, Survey]) -> Iterator[str]:
    """Yield a warning where data.mean and data.std are far from the pixels of the training."""
    train = surveys.get("train")
    if train is None or not train.count:
        return
    mean, std = (torch.tensor(1.0 if one is None else one).numpy() for one in (data.mean or 0.0, data.std))
    ratio = np.maximum(train.std, 1e-6) / std
    if np.abs(train.mean - mean).max() > MEAN_OFF or ratio.max() > STD_OFF or ratio.min() < 1 / STD_OFF:
        texts = [
            f"data.{key}=[{','.join(f'{value:.3f}' for value in one)}]"
            for key, one in (("mean", train.mean), ("std", train.std))
        ]
        yield f"data.mean and data.std are far from the pixels of the training; measured: {' '.join(texts)}"


def _some(texts: Sequence[str]) -> str:
    return ", ".join(texts[:SHOWN]) + (f" and {len(texts) - SHOWN:,} more" if len(texts) > SHOWN else "")
