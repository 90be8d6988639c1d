"""Say in words what the samples of a data set are."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lamella.data.samples import Samples

UNBALANCED = 10  # how many times as many samples the largest class may have as the smallest, before that is said
SHOWN = 5  # classes that a note names
WORDS = {"train": "training", "val": "validation", "test": "test"}


def count_text(splits: Mapping[str, Samples], cut: Sequence[str], noun: str, classes: int, left_out: str) -> str:
    """Return how many samples there are: "1,294 images in 10 classes (train), 144 set aside for test".

    splits: the samples by the name of the split, train first. cut: the splits that are cut off from the training
    samples. noun: what the samples are. classes: how many classes there are, 0 for other targets. left_out: what ends
    the text, after a semicolon.
    """
    kinds = f" in {counted(classes, 'class', 'classes')}" if classes else ""
    parts = [f"{counted(len(splits['train']), noun, f'{noun}s')}{kinds} (train)"]
    for name in ("val", "test"):
        size = len(splits[name])
        if not size:
            parts.append(f"none for {WORDS[name]}")
        else:
            parts.append(f"{size:,} set aside for {WORDS[name]}" if name in cut else f"{size:,} ({name})")
    return ", ".join(parts) + (f"; {left_out}" if left_out else "")


def class_notes(splits: Mapping[str, Samples], classes: Sequence[str]) -> list[str]:
    """Return a note for each thing about the classes that makes little sense of a training or of a result.

    splits: the samples with class indices by the name of the split, train first.
    """
    counts = {
        name: torch.bincount(samples.targets.long(), minlength=len(classes))
        for name, samples in splits.items()
        if len(samples)
    }
    if len(classes) == 1:
        return [f"there is one class, {classes[0]}, so that nothing can be told apart"]
    notes = []
    missing: dict[str, list[str]] = {}  # for each list of classes, the splits that lack them
    for name, numbers in counts.items():
        if lacking := _named(numbers == 0, classes):
            missing.setdefault(lacking, []).append(WORDS[name])
    notes += [f"no {' or '.join(names)} sample is of class {lacking}" for lacking, names in missing.items()]
    present = counts["train"][counts["train"] > 0]
    if present.max() >= UNBALANCED * present.min():
        order = counts["train"].argsort(descending=True, stable=True).tolist()
        shown = [f"{classes[number]} {counts['train'][number]:,}" for number in order]
        if len(shown) > 2 * SHOWN:
            shown = [*shown[:SHOWN], "…", *shown[-SHOWN:]]
        notes.append(f"the classes are unbalanced in training: {', '.join(shown)}")
    return notes


def _named(selected: Tensor, classes: Sequence[str]) -> str:
    """Return the names of the selected classes, of which there may be many. selected: bool (classes,)."""
    names = [name for name, chosen in zip(classes, selected.tolist(), strict=True) if chosen]
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def counted(number: int, one: str, several: str) -> str:
    """Return a number with what it counts, in the singular or the plural."""
    return f"{number:,} {one if number == 1 else several}"
