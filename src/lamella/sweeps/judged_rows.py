"""Compare the rows of a leaderboard with the best, where their runs were judged by the same samples."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lamella.runs.sample_metrics import Array, read_sample_metric
from lamella.sweeps.ties import Row, compare_rows

NAMED = 3  # for how many rows a line says how many more seeds would tell


@dataclass(frozen=True)
class Tie:
    """How a row compares with the best one.

    tied: whether the 95 % interval of the difference contains 0. margin: half of that interval. seeds: about how many
    more runs of each of the two rows would tell them apart, None where that is not known or too many.
    """

    tied: bool
    margin: float
    seeds: int | None


@dataclass(frozen=True)
class Ties:
    """The rows of a leaderboard compared with the best one, the first.

    rows: None for those that were not judged by the same samples as the best. note: what a reader has to know, without
    the names of rows.
    """

    rows: list[Tie | None]
    note: str

    @classmethod
    def of(cls, rows: Sequence[Mapping[Path, float]], metric: str) -> "Ties | None":
        """Compare rows by the metrics of each sample. Returns None where the best row has none.

        rows: at least two, for each the directories of its runs with the metric of the record.
        """
        judged = [_judged(row, metric) for row in rows]
        if judged[0] is None:
            return None
        shares = _shares(judged[0])
        comparable = [number for number, row in enumerate(judged) if row is not None and _shares(row) == shares]
        if len(comparable) < 2:
            return None
        found = compare_rows([row for number, row in enumerate(judged) if row is not None and number in comparable])
        ties: list[Tie | None] = [None] * len(rows)
        for number, tied, margin, seeds in zip(comparable, found.tied, found.margin, found.seeds, strict=True):
            ties[number] = Tie(bool(tied), float(margin), int(seeds) if math.isfinite(seeds) else None)
        over = f"95 % interval over {found.samples:,} samples"
        over += " and the seeds" if found.over_seeds else " only; how results vary with the seed is not known"
        others = [tie for tie in ties[1:] if tie]
        if any(tie.tied for tie in others):
            return cls(ties, f"* cannot be told from the best: {over}")
        left_out = "all others" if len(others) == len(rows) - 1 else "the others that were judged by the same samples"
        return cls(ties, f"the best row differs from {left_out}: {over}")

    def seeds_lines(self, names: Sequence[str]) -> list[str]:
        """Return the lines about how many more seeds would tell tied rows from the best. names: of the rows."""
        known = [(tie.seeds, name) for tie, name in zip(self.rows, names, strict=True) if tie and tie.seeds]
        return [
            f"about {count} more seed{'s' * (count > 1)} for each row would tell {name} from the best"
            for count, name in known[:NAMED]
        ]


def _judged(row: Mapping[Path, float], metric: str) -> Row | None:
    """Return the values of the samples of a row's runs by the checksum of the targets and the number of samples.

    None where one of the runs has not kept the values, or has kept values of which the metric is not the mean.
    """
    sets: dict[object, list[Array]] = {}
    for path, recorded in row.items():
        kept = read_sample_metric(path, metric)
        if kept is None or not math.isclose(kept.values.mean(dtype=float), recorded, rel_tol=1e-3, abs_tol=1e-4):
            return None
        sets.setdefault((kept.targets, len(kept.values)), []).append(kept.values)
    return sets or None


def _shares(row: Row) -> dict[object, float]:
    """Return the share of a row's runs that were judged by each set of samples."""
    runs = sum(len(values) for values in row.values())
    return {samples: len(values) / runs for samples, values in row.items()}
