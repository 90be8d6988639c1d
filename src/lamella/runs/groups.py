"""Runs that have the same values of some keys, such as those that differ in their seed alone, as one row."""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from lamella.errors import RequestError
from lamella.runs.listing import Runs
from lamella.runs.query import sort_key


@dataclass(frozen=True)
class RunGroup:
    """Runs that have the same values of some keys.

    settings: the values of these keys, None where the runs have none. n: how many runs there are. results: for each
    column the values of the runs that have one.
    """

    settings: dict[str, object]
    n: int
    results: dict[str, list[float]]

    def mean(self, column: str) -> float | None:
        """Return the mean of a column, None if no run has a value."""
        return statistics.fmean(self.results[column]) if self.results[column] else None

    def spread(self, column: str) -> float | None:
        """Return the standard deviation of a column as a sample, None for fewer than two values."""
        return statistics.stdev(self.results[column]) if len(self.results[column]) > 1 else None

    def row(self) -> dict[str, object]:
        """Return a flat row: the settings, `n`, and each column's mean, deviation and number of values."""
        row = {**self.settings, "n": self.n}
        for column, values in self.results.items():
            row |= {column: self.mean(column), f"{column} std": self.spread(column), f"{column} n": len(values)}
        return row


def group_runs(
    runs: Runs, keys: Sequence[str], columns: Sequence[str], sort: str | None = None, reverse: bool = False
) -> list[RunGroup]:
    """Return the groups of runs that have the same values of `keys`.

    columns: what the mean is taken of, among the finite numbers. sort: one of the keys or the columns, by which the
    groups are sorted, metrics from the best mean on; None for all keys. reverse: sort the other way round; groups
    without a mean stay last. Raises RequestError for a key that no run has,
    and for a column in which no run has a number.
    """
    for key in [*keys, *columns]:
        runs.check(key)
    groups: dict[str, Runs] = {}
    for record in runs:
        groups.setdefault(json.dumps([record.get(key) for key in keys], default=str), Runs()).append(record)
    found = [
        RunGroup(
            {key: members[0].get(key) for key in keys},
            len(members),
            {column: _numbers(members, column) for column in columns},
        )
        for members in groups.values()
    ]
    for column in columns:
        if found and not any(group.results[column] for group in found):
            raise RequestError(f"{column}: there is no mean of it, because no run has a number there")
    if sort in columns:
        sign = -1.0 if runs.best_is_largest(str(sort)) != reverse else 1.0
        return sorted(found, key=lambda group: ((mean := group.mean(str(sort))) is None, sign * (mean or 0.0)))
    first = [sort] if sort else keys
    return sorted(found, key=lambda group: [sort_key(group.settings[key]) for key in first], reverse=reverse)


def _numbers(runs: Runs, column: str) -> list[float]:
    values = (record.get(column) for record in runs)
    return [value for value in values if isinstance(value, int | float) and math.isfinite(value)]
