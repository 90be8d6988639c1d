"""The tables that `lamella check-data` prints: counts, sizes of files, pixels, columns of a table."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from lamella.data import Data, RunData, TableEncoder
from lamella.data.summary import counted
from lamella.data.survey import Survey
from lamella.data.table_columns import is_missing
from lamella.tables import Table

Rows = list[list[str]]


def tables(data: RunData, surveys: Mapping[str, Survey], file: Table | None = None) -> Iterator[tuple[str, Rows]]:
    """Yield the name and the rows of each table; the first row has the headings.

    surveys: of each split that has samples or files. file: the CSV file that the samples were read from.
    """
    if surveys:
        yield "samples", _counts(data, surveys)
    if sized := {name: one.sizes for name, one in surveys.items() if len(one.sizes)}:
        yield (
            "sizes",
            [
                ["image files", *sized],
                *(
                    [f"{what} height × width", *(_size(function(one)) for one in sized.values())]
                    for what, function in (
                        ("smallest", lambda one: one.min(0)),
                        ("median", lambda one: np.median(one, 0)),
                        ("largest", lambda one: one.max(0)),
                    )
                ),
            ],
        )
    if "train" in surveys and surveys["train"].count:
        yield "pixels", _pixels(data, {name: one for name, one in surveys.items() if one.count})
    if isinstance(data.encoder, TableEncoder):
        yield "columns", _columns(data.encoder, file)


def _counts(data: RunData, surveys: Mapping[str, Survey]) -> Rows:
    """Return how many samples there are of each class and split; of masks, how many pixels."""
    rows = [["", *surveys]]
    masks = isinstance(data, Data) and data.has_masks
    if data.num_classes and (data.has_classes or masks):
        kept = [one.targets[(one.targets >= 0) & (one.targets < data.num_classes)] for one in surveys.values()]
        counts = [torch.bincount(one.long(), minlength=data.num_classes).tolist() for one in kept]
        noun = "pixels of " if masks else ""
        rows += [[f"{noun}{name}", *(f"{one[number]:,}" for one in counts)] for number, name in enumerate(data.classes)]
    elif surveys and surveys["train"].targets.is_floating_point():
        for what, function in (("smallest", torch.amin), ("mean", torch.mean), ("largest", torch.amax)):
            values = (f"{float(function(one.targets)):.4g}" if one.names else "" for one in surveys.values())
            rows.append([f"{what} target", *values])
    return [*rows, ["all samples", *(f"{len(one.names):,}" for one in surveys.values())]]


def _pixels(data: RunData, surveys: Mapping[str, Survey]) -> Rows:
    """Return the mean and the standard deviation of each channel, and what the config has."""
    rows = [["channel", *(f"{what} ({name})" for name in surveys for what in ("mean", "std")), "data.mean", "data.std"]]
    channels = len(surveys["train"].mean)
    assert isinstance(data, Data)
    given = [
        [default] * channels if one is None else [one] * channels if isinstance(one, int | float) else list(one)
        for one, default in ((data.mean, 0.0), (data.std, 1.0))
    ]
    for number in range(channels):
        measured = [f"{one[number]:.4f}" for found in surveys.values() for one in (found.mean, found.std)]
        rows.append([str(number), *measured, *(f"{values[number % len(values)]:g}" for values in given)])
    return rows


def _columns(encoder: TableEncoder, file: Table | None) -> Rows:
    """Return what is in each column of a table: of its training samples and, where there is a file, of all its rows."""
    rows = [["column", "holds", "mean", "sd", *(["missing", "different", "smallest", "largest"] if file else [])]]
    for name, column in encoder.columns.items():
        if isinstance(column, Mapping):
            row = [name, "numbers", f"{column['mean']:.4g}", f"{column['sd']:.4g}"]
        else:
            row = [name, counted(len(column), "category", "categories"), "", ""]
        if file:
            cells = file.columns[name]
            present = [cell for cell in cells if not is_missing(cell)]
            row += [f"{len(cells) - len(present):,}", f"{len(set(present)):,}"]
            row += [min(present, key=float), max(present, key=float)] if isinstance(column, Mapping) else ["", ""]
        rows.append(row)
    return rows


def _size(values: np.ndarray) -> str:
    return " × ".join(f"{value:g}" for value in values)
