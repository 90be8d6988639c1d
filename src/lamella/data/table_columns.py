"""The columns of a table as tensors: numbers as they are, texts as codes."""

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lamella.errors import RequestError, nearest
from lamella.tables import Table

MISSING = ("", "na", "n/a", "nan", "null", "none", "?")  # what a cell without a value holds, in small letters
NO_TEXT = 0  # the code of a text that is missing


def is_missing(cell: str) -> bool:
    """Return True if a cell holds no value."""
    return cell.lower() in MISSING


def text_code(text: str) -> int:
    """Return a number of 63 bits that depends on the text alone, so that equal texts of two files are equal."""
    if is_missing(text):
        return NO_TEXT
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def text_column(cells: Sequence[str]) -> Tensor:
    """Return the codes of a column of texts, int64 (N,)."""
    codes = {text: text_code(text) for text in set(cells)}
    return torch.tensor([codes[text] for text in cells])


def is_text(cells: Sequence[str]) -> bool:
    """Return True if more than half of the cells that hold a value are no numbers."""
    present = [cell for cell in cells if not is_missing(cell)]
    return sum(_number(cell) is None for cell in present) > len(present) / 2


def number_column(table: Table, name: str, key: str | None = None, missing: bool = True) -> Tensor:
    """Return a column of numbers, float64 (N,); a missing one is NaN.

    key: the config key to blame. missing: whether numbers may be missing. Raises RequestError that names the file, the
    row and the column of a cell that is no finite number.
    """
    values = []
    for cell, row in zip(table.columns[name], table.rows, strict=True):
        value = math.nan if is_missing(cell) and missing else _number(cell)
        if value is None:
            what = f"{cell!r} is no number" if cell else "the cell is empty"
            raise RequestError(f"{table.path}: row {row}, column {name}: {what}", key)
        values.append(value)
    return torch.tensor(values, dtype=torch.float64)


def group_column(table: Table, name: str | None) -> Tensor | None:
    """Return a number for the group of each row, int64 (N,), in the order of the names of the groups.

    name: the column that names the groups; None gives None. Raises RequestError for a column that the table does not
    have, and for a cell without a value.
    """
    if name is None:
        return None
    name = str(name)
    if name not in table.columns:
        raise RequestError(
            f"data.groups is {name!r}; {table.path} has no such column; {nearest(name, table.columns)}", "data.groups"
        )
    cells = table.columns[name]
    if empty := next((row for cell, row in zip(cells, table.rows, strict=True) if is_missing(cell)), None):
        raise RequestError(
            f"{table.path}: row {empty}, column {name}: the cell names no group, which data.groups takes for each row",
            "data.groups",
        )
    numbers = {cell: number for number, cell in enumerate(sorted(set(cells)))}
    return torch.tensor([numbers[cell] for cell in cells])


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in cell else None
