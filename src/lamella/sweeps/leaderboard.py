"""Rank the members of a sweep: what was swept and what came out, the best first."""

import json
import math
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from lamella.atomic_files import write_atomically
from lamella.config.value_text import parse_value
from lamella.config.values import override_values
from lamella.runs.ranking import direction_sign, record_value
from lamella.runs.schema import RunRecord
from lamella.runs.sweep_directory import Sweep
from lamella.tables import format_csv, format_duration, format_mean, format_table, terminal_width

if TYPE_CHECKING:
    from lamella.sweeps.judged_rows import Ties

COMPARED = 100  # so many rows are compared sample by sample, because the time grows with the square of their number
OVER = ("seed", "data.fold")  # where a sweep says nothing else, runs that differ in these alone form one row


@dataclass(frozen=True)
class LeaderboardRow:
    """The members that differ in their seed or their fold alone, or in what else `sweep.over` names.

    settings: the values of the other swept keys. metrics: for each name the values of the finished members.
    best: the directory of the best member. n: how many members have a value of the first objective. status: how many
    members are unfinished, and in which state. front: whether the row is on the Pareto front, so that no other row is
    better in all objectives. scores: the first objective of the members that have it, by their directories.
    """

    settings: dict[str, str]
    metrics: dict[str, list[float]]
    best: Path | None
    n: int
    status: str
    scores: dict[Path, float]
    front: bool = False

    def mean(self, name: str) -> float | None:
        """Return the mean of a metric, None if no member has it."""
        values = self.metrics.get(name)
        return statistics.fmean(values) if values else None

    def spread(self, name: str) -> float | None:
        """Return the standard deviation of a metric as a sample, None for fewer than two values."""
        values = self.metrics.get(name, [])
        return statistics.stdev(values) if len(values) > 1 else None


class Leaderboard:
    """The rows of a sweep, sorted by the first objective.

    keys: the swept keys except those of `sweep.over`. columns: the metrics that are shown. repeats: whether a key of
    `sweep.over` was swept.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.path = sweep.path
        self.objectives = sweep.fields["objectives"] or [sweep.fields["monitor"]]
        self.lower, self.pruned = sweep.fields.get("lower_is_better"), sweep.fields.get("pruned", [])
        settings = {name: override_values(member.overrides) for name, member in sweep.members.items()}
        differing = _differing_keys(sweep, list(settings.values()))
        over = sweep.fields.get("over", OVER)
        self.keys = [key for key in differing if key not in over]
        self.repeats = len(self.keys) < len(differing)
        groups: dict[tuple[str, ...], dict[str, RunRecord | None]] = {}
        for name, values in settings.items():
            group = groups.setdefault(tuple(values.get(key, "") for key in self.keys), {})
            group[name] = sweep.record(name)
        self.rows = self._sorted([self._row(values, records) for values, records in groups.items()])
        names = {name for row in self.rows for name in row.metrics}
        tested = sorted(name for name in names if name.startswith("test/"))
        self.columns = list(dict.fromkeys([*self.objectives, sweep.fields["monitor"], *tested]))

    @cached_property
    def ties(self) -> "Ties | None":
        """Return how the rows compare with the best, None where that is not known."""
        ranked = [row.scores for row in self.rows if row.scores]
        if len(ranked) < 2 or "/" not in self.objectives[0]:
            return None
        from lamella.sweeps.judged_rows import Ties  # numpy takes a tenth of a second to import

        found = Ties.of(ranked[:COMPARED], self.objectives[0])
        # Rows without a value come last.
        return found and replace(found, rows=[*found.rows, *[None] * (len(self.rows) - len(found.rows))])

    def table(self) -> str:
        """Return the table that is printed: means, with standard deviations where a row has several runs.

        A star marks the rows that cannot be told from the best, where there are any, and lines below say how it was
        found.
        """
        pareto, unfinished = len(self.objectives) > 1, any(row.status for row in self.rows)
        ties = [bool(tie and tie.tied) for tie in self.ties.rows] if self.ties else [False] * len(self.rows)
        tied = any(ties[1:])
        heads = [*self.keys, *(["n"] if self.repeats else []), *self.columns]
        heads += [*(["front"] if pareto else []), *(["tied"] if tied else []), *(["status"] if unfinished else [])]
        lines = [[*heads, "best" if self.repeats else "directory"]]
        for row, is_tied in zip(self.rows, ties, strict=True):
            line = [*row.settings.values(), *([str(row.n)] if self.repeats else [])]
            line += [format_mean(row.mean(name), row.spread(name)) for name in self.columns]
            line += ["*" if row.front else ""] if pareto else []
            line += ["*" if is_tied else ""] if tied else []
            line += [row.status or "finished"] if unfinished else []
            lines.append([*line, str(row.best or "-")])
        # What was swept, the first objective and the directory stay longest.
        droppable = [*reversed(self.columns[1:]), "n", "front", "status", "tied", *reversed(self.keys)]
        width = int(min(terminal_width(), 1000))
        return "\n".join([format_table(lines, droppable), *(textwrap.fill(note, width) for note in self._notes())])

    def save(self) -> None:
        """Write `leaderboard.csv` and `leaderboard.json` into the sweep's directory."""
        rows = [self._plain_row(number) for number in range(len(self.rows))]
        text = json.dumps({"objectives": self.objectives, "swept": self.keys, "rows": rows}, indent=1)
        write_atomically(self.path / "leaderboard.json", text + "\n")
        heads = list(rows[0]) if rows else []
        write_atomically(self.path / "leaderboard.csv", format_csv([heads, *(row.values() for row in rows)]))

    def points(self) -> dict[str, list[tuple[float | str, list[float]]]]:
        """Return for each swept key its values, each with the first objective of the members that have the value."""
        first = self.objectives[0]
        return {
            key: [(_number_or_text(row.settings[key]), row.metrics.get(first, [])) for row in self.rows]
            for key in self.keys
        }

    def _notes(self) -> list[str]:
        """Return the lines below the table: which rows cannot be told from the best, and what would tell them."""
        if self.ties:
            names = [" ".join(f"{key}={value}" for key, value in row.settings.items()) for row in self.rows]
            more = [f"the first {COMPARED} rows were compared"] * (len(self.rows) > COMPARED)
            return ["", self.ties.note, *more, *self.ties.seeds_lines(names)]
        several = sum(bool(row.scores) for row in self.rows) > 1 and "/" in self.objectives[0]
        return ["", f"ties are not marked: the runs have not kept {self.objectives[0]} of each sample"] * several

    def _row(self, values: Sequence[str], records: Mapping[str, RunRecord | None]) -> LeaderboardRow:
        """Return the row of the members with these values of the keys. records: by the names of the members."""
        finished = {name: record for name, record in records.items() if record and record["status"] == "finished"}
        names = {*self.objectives, *(name for record in finished.values() for name in record["metrics"])}
        metrics = {}
        for name in sorted(names):
            scores = (record_value(record, name) for record in finished.values())
            metrics[name] = [score for score in scores if score is not None]
        first, sign = self.objectives[0], direction_sign(self.objectives[0], self.lower)
        values_of_first = {name: record_value(record, first) for name, record in finished.items()}

        def score(name: str) -> float:
            value = values_of_first.get(name)
            return -math.inf if value is None else sign * value

        return LeaderboardRow(
            settings=dict(zip(self.keys, values, strict=True)),
            metrics=metrics,
            best=self.path / max(records, key=score) if finished else None,
            n=len(metrics.get(first, [])),
            status=self._status(records),
            scores={self.path / name: value for name, value in values_of_first.items() if value is not None},
        )

    def _status(self, records: Mapping[str, RunRecord | None]) -> str:
        """Return how many of the members are in which state, without the finished ones."""
        states = [
            "pruned" if name in self.pruned else record["status"] if record else "planned"
            for name, record in records.items()
        ]
        unfinished = [state for state in dict.fromkeys(states) if state != "finished"]
        return ", ".join(f"{states.count(state)} {state}" if len(states) > 1 else state for state in unfinished)

    def _sorted(self, rows: Sequence[LeaderboardRow]) -> list[LeaderboardRow]:
        """Mark the Pareto front, and sort the rows by the first objective; rows without a value come last."""
        signs = [direction_sign(name, self.lower) for name in self.objectives]
        front = _pareto_front([[row.mean(name) for name in self.objectives] for row in rows], signs)
        marked = [replace(row, front=is_on_it) for row, is_on_it in zip(rows, front, strict=True)]
        first, sign = self.objectives[0], direction_sign(self.objectives[0], self.lower)
        return sorted(
            marked, key=lambda row: (row.mean(first) is None, -sign * (row.mean(first) or 0.0), not row.front)
        )

    def _plain_row(self, number: int) -> dict[str, object]:
        """Return a row as plain values, for the files."""
        row, tie = self.rows[number], self.ties.rows[number] if self.ties else None
        cells: dict[str, object] = {key: parse_value(text) for key, text in row.settings.items()} | {"n": row.n}
        for name in self.columns:
            cells |= {name: row.mean(name), f"{name} std": row.spread(name)}
        if len(self.objectives) > 1:
            cells["front"] = row.front
        if self.ties:
            cells |= {"tied": tie and tie.tied, "margin": tie and tie.margin, "more seeds": tie and tie.seeds}
        return cells | {"status": row.status or "finished", "directory": row.best and str(row.best)}


def time_line(sweep: Sweep) -> str | None:
    """Return how long the jobs of a command have taken, and their estimate, None where nothing was estimated."""
    if not (estimate := sweep.fields.get("estimate")):
        return None
    expected = f"{'at most' if estimate['at_most'] else 'about'} {format_duration(estimate['seconds'])}"
    taken = f"took {format_duration(estimate['took'])}, " if "took" in estimate else ""
    return f"{taken}estimated {expected} for {estimate['jobs']:.0f} job{'s' * (estimate['jobs'] != 1)}"


def _differing_keys(sweep: Sweep, settings: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the keys that were swept or differ between members, which a later command line may have added."""
    swept = [key.lstrip("+~") for key in sweep.fields["swept"]]
    keys = dict.fromkeys([*swept, *(key for values in settings for key in values)])
    return [key for key in keys if key in swept or len({values.get(key) for values in settings}) > 1]


def _pareto_front(scores: Sequence[Sequence[float | None]], signs: Sequence[float]) -> list[bool]:
    """Return for each row whether it is on the Pareto front.

    A row is on the front if no other row is at least as good in all objectives and better in one. scores
    (rows, objectives): the mean of each objective in each row, None where a row has none. signs: 1.0 for an objective
    of which more is better, else -1.0.
    """
    points = [
        None if any(mean is None for mean in row) else [s * (mean or 0.0) for s, mean in zip(signs, row, strict=True)]
        for row in scores
    ]

    def is_dominated(point: list[float]) -> bool:
        return any(
            other is not None and other != point and all(a >= b for a, b in zip(other, point, strict=True))
            for other in points
        )

    return [point is not None and not is_dominated(point) for point in points]


def _number_or_text(text: str) -> float | str:
    """Return the value of an override as a number if it is one, so that it is plotted as a number."""
    value = parse_value(text)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else text
