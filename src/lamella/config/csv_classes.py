"""Find the classes in a column of a CSV file, for configs."""

import os
from collections.abc import Sequence
from functools import lru_cache

from lamella.errors import RequestError, nearest
from lamella.tables import read_csv

MANY = 20  # so many classes are never too many


def csv_classes(path: str, target: str | Sequence[str], kind: str = "classes") -> list[str]:
    """Return the names of the classes: the sorted distinct values of the column `target` over the whole file.

    kind: of the target. For labels and numbers, the names are those of the target's columns. Numbers are sorted as
    numbers. Raises RequestError where the column is missing, has one value, or has too many for classes.
    """
    names = [target] if isinstance(target, str | int) else list(target)
    if kind != "classes" or len(names) != 1:  # the source refuses several columns of classes
        return list(map(str, names))
    try:
        stamp = os.stat(os.path.expanduser(path)).st_mtime_ns
    except OSError:
        stamp = 0
    return list(_distinct_values(path, str(names[0]), stamp))


@lru_cache(maxsize=4)  # a config reads its classes from several places
def _distinct_values(path: str, target: str, stamp: int) -> tuple[str, ...]:
    columns = read_csv(path, "data.path").columns
    if target not in columns:
        raise RequestError(
            f"data.target is {target!r}; {path} has no such column; {nearest(target, columns)}", "data.target"
        )
    values = sorted({cell for cell in columns[target] if cell})  # the source refuses rows without a target
    numbers = list(filter(None, map(_as_number, values)))
    broken = len(numbers) == len(values) and any(number[0] % 1 for number in numbers)
    if len(values) > MANY and (broken or len(values) > len(columns[target]) / 2):
        raise RequestError(
            f"data.kind is classes, but the column {target} has {len(values):,} different values in "
            f"{len(columns[target]):,} rows; for numbers write data.kind=numbers loss=mse",
            "data.kind",
        )
    if len(values) < 2:
        has = f"the one value {values[0]!r}" if values else "no values"
        raise RequestError(
            f"data.target is {target!r}; in {path} this column has {has}, where classes take two or more", "data.target"
        )
    return tuple(text for _, text in sorted(numbers)) if len(numbers) == len(values) else tuple(values)


def _as_number(text: str) -> tuple[float, str] | None:
    try:
        return float(text), text
    except ValueError:
        return None
