"""Sources that read windows of consecutive rows, to predict the rows that follow."""

from collections.abc import Sequence

import numpy as np
import torch

from lamella.data.samples import NamedInputs, Samples, Splits
from lamella.data.table_columns import number_column
from lamella.data.table_encoder import TableEncoder
from lamella.data.tables import UNFITTED, check_columns, input_columns, read_columns
from lamella.errors import RequestError
from lamella.tables import Table, read_csv


def series(
    path: str,
    target: str | Sequence[str],
    window: int,
    horizon: int = 1,
    columns: Sequence[str] | None = None,
    drop: Sequence[str] = (),
    text: Sequence[str] = (),
    standardize_target: bool = True,
    val_size: int | float = 0.1,
    test_size: int | float = 0.1,
) -> Splits:
    """Return the windows of a CSV file whose rows are in the order of time, with the rows that follow as targets.

    target: the column that is predicted, whose targets are (N, horizon), or a list of columns, (N, horizon, columns).
    window: how many rows are an input. horizon: how many of the next rows are predicted. columns: those that are read,
    None for all; the past of the target is an input too. drop, text, standardize_target: as for `csv`. val_size,
    test_size: a number of rows or a fraction of all; the last rows are the test, those before them the validation, and
    no window crosses from one to the other. Raises RequestError.
    """
    table = read_csv(path, "data.path")
    return _windows(table, target, window, horizon, (val_size, test_size), (columns, drop, text), standardize_target)


def waves(
    window: int,
    horizon: int = 1,
    standardize_target: bool = True,
    val_size: int | float = 0.1,
    test_size: int | float = 0.1,
) -> Splits:
    """Return windows of a made series of 2,000 hours: a wave of a day, one of a week, and noise, always the same.

    The arguments are those of `series`.
    """
    hours = np.arange(2000)
    noise = np.random.default_rng(0).normal(0, 2, len(hours))
    load = 50 + 10 * np.sin(2 * np.pi * hours / 24) + 5 * np.sin(2 * np.pi * hours / 168) + noise
    table = Table("waves", {"load": [f"{value:.3f}" for value in load]}, list(range(2, len(hours) + 2)))
    return _windows(table, "load", window, horizon, (val_size, test_size), (None, (), ()), standardize_target)


def _windows(
    table: Table,
    target: str | Sequence[str],
    window: int,
    horizon: int,
    sizes: tuple[int | float, int | float],
    choice: tuple[Sequence[str] | None, Sequence[str], Sequence[str]],
    standardize_target: bool,
) -> Splits:
    """Return the windows of a table. sizes: val_size and test_size. choice: columns, drop and text."""
    for key, value in (("window", window), ("horizon", horizon)):
        if value < 1:
            raise RequestError(f"data.{key} is {value}; it takes 1 or more", f"data.{key}")
    names, (columns, drop, text) = list(map(str, [target] if isinstance(target, str | int) else target)), choice
    check_columns(table, target=names, columns=columns, drop=drop, text=text)
    used = input_columns(table, columns, drop)
    inputs, shapes, notes = read_columns(table, used, text)
    values = torch.stack([number_column(table, name, "data.target", missing=False) for name in names], 1)
    if isinstance(target, str | int):
        values = values[:, 0]

    def part(start: int, end: int) -> Samples:
        count = end - start - window - horizon + 1
        places = start + torch.arange(count)[:, None]
        past, future = places + torch.arange(window), places + window + torch.arange(horizon)
        return Samples(NamedInputs({name: one[past] for name, one in inputs.tensors.items()}), values[future])

    train, val, test = _parts(table, window + horizon, sizes)
    ignored = [name for name in table.columns if name not in used]
    scales = dict.fromkeys(names, UNFITTED)
    encoder = TableEncoder(shapes, scales, ignored, standardize_target, window, horizon)
    return Splits(
        part(0, train), part(train, val) if val > train else None, part(val, test), notes=notes, encoder=encoder
    )


def _parts(table: Table, length: int, sizes: tuple[int | float, int | float]) -> tuple[int, int, int]:
    """Return the ends of the training, the validation and the test, in rows.

    length: the rows of a window and its target. Raises RequestError for a part that is shorter than that.
    """
    total = len(table.rows)
    val, test = (round(size * total) if isinstance(size, float) and size < 1 else int(size) for size in sizes)
    counts = {"training": total - val - test, "validation": val, "test": test}
    for name, count in counts.items():
        if count < length and not (name == "validation" and count == 0):
            raise RequestError(
                f"data.window and data.horizon take {length} rows, but the {name} has {max(count, 0)} of the {total} "
                f"rows of {table.path}; make them smaller, or change data.val_size and data.test_size",
                "data.window",
            )
    return total - val - test, total - test, total
