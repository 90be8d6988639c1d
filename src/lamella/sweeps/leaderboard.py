"""The members of a sweep side by side: what was swept, what came out, the best one first."""

import csv
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lamella.atomic_files import write_atomically
from lamella.config.values import number_or_text, override_values, parse_value
from lamella.runs.ranking import direction_sign, record_value
from lamella.runs.schema import RunRecord
from lamella.runs.sweep_directory import Sweep
from lamella.tables import format_table


@dataclass(frozen=True)
class LeaderboardRow:
    """Members that differ in their seed alone.

    settings: what was swept, but for the seed. metrics: of those that have finished, by name. best: the directory of
    the best one of them. status: of those that have not finished, with their number. front: none is better in all
    objectives.
    """

    settings: dict[str, str]
    metrics: dict[str, list[float]]
    best: Path | None
    n: int
    status: str
    front: bool = False

    def mean(self, name: str) -> float | None:
        values = self.metrics.get(name)
        return statistics.fmean(values) if values else None

    def spread(self, name: str) -> float | None:
        """The standard deviation of a sample; None for a single value."""
        values = self.metrics.get(name, [])
        return statistics.stdev(values) if len(values) > 1 else None


class Leaderboard:
    """The rows of a sweep, sorted by its first objective."""

    def __init__(self, sweep: Sweep) -> None:
        self.path = sweep.path
        settings = [override_values(member.overrides) for member in sweep.members.values()]
        swept = [key.lstrip("+~") for key in sweep.fields["swept"]]
        # A later line may have added members with other constants.
        found = dict.fromkeys([*swept, *(key for one in settings for key in one)])
        differ = [key for key in found if key in swept or len({one.get(key) for one in settings}) > 1]
        self.keys = [key for key in differ if key != "seed"]
        self.objectives: list[str] = sweep.fields["objectives"] or [sweep.fields["monitor"]]
        self.pruned: list[str] = sweep.fields.get("pruned", [])
        records = {name: sweep.record(name) for name in sweep.members}
        groups: dict[tuple[str, ...], list[str]] = {}
        for name, own in zip(sweep.members, settings, strict=True):
            groups.setdefault(tuple(own.get(key, "") for key in self.keys), []).append(name)
        rows = [self._row(values, {name: records[name] for name in names}) for values, names in groups.items()]
        names = {name for row in rows for name in row.metrics}
        tested = sorted(name for name in names if name.startswith("test/"))
        self.columns = list(dict.fromkeys([*self.objectives, sweep.fields["monitor"], *tested]))
        front = _front([[row.mean(name) for name in self.objectives] for row in rows], self.objectives)
        rows = [replace(row, front=on) for row, on in zip(rows, front, strict=True)]
        first, sign = self.objectives[0], direction_sign(self.objectives[0])
        self.rows = sorted(
            rows, key=lambda row: (row.mean(first) is None, -sign * (row.mean(first) or 0.0), not row.front)
        )
        self.seeds = "seed" in differ

    def _row(self, values: Sequence[str], records: Mapping[str, RunRecord | None]) -> LeaderboardRow:
        finished = {name: fields for name, fields in records.items() if fields and fields["status"] == "finished"}
        names = {*self.objectives, *(name for fields in finished.values() for name in fields["metrics"])}
        found = {name: [record_value(fields, name) for fields in finished.values()] for name in sorted(names)}
        metrics = {name: [one for one in values if one is not None] for name, values in found.items()}
        first, sign = self.objectives[0], direction_sign(self.objectives[0])
        scores = {name: record_value(fields, first) for name, fields in finished.items()}
        best = max(records, key=lambda name: sign * score if (score := scores.get(name)) is not None else -math.inf)
        states = [
            "pruned" if name in self.pruned else fields["status"] if fields else "planned"
            for name, fields in records.items()
        ]
        told = [state for state in dict.fromkeys(states) if state != "finished"]
        status = ", ".join(f"{states.count(state)} {state}" if len(states) > 1 else state for state in told)
        settings, n = dict(zip(self.keys, values, strict=True)), len(metrics.get(first, []))
        return LeaderboardRow(settings, metrics, self.path / best if finished else None, n, status)

    def table(self) -> str:
        """For people: means with their standard deviations where there are several seeds."""
        pareto, unfinished = len(self.objectives) > 1, any(row.status for row in self.rows)
        heads = [*self.keys, *(["n"] if self.seeds else []), *self.columns, *(["front"] if pareto else [])]
        lines = [[*heads, *(["status"] if unfinished else []), "best" if self.seeds else "directory"]]
        for row in self.rows:
            line = [*row.settings.values(), *([str(row.n)] if self.seeds else [])]
            line += [_shown(row.mean(name), row.spread(name)) for name in self.columns]
            line += ["*" if row.front else ""] if pareto else []
            line += [row.status or "finished"] if unfinished else []
            lines.append([*line, str(row.best or "-")])
        return format_table(lines)

    def save(self) -> None:
        """Write `leaderboard.csv` and `leaderboard.json` into the sweep's directory."""
        rows = []
        for row in self.rows:
            cells: dict[str, Any] = {key: parse_value(text) for key, text in row.settings.items()} | {"n": row.n}
            for name in self.columns:
                cells |= {name: row.mean(name), f"{name} std": row.spread(name)}
            if len(self.objectives) > 1:
                cells["front"] = row.front
            rows.append(cells | {"status": row.status or "finished", "directory": row.best and str(row.best)})
        text = json.dumps({"objectives": self.objectives, "swept": self.keys, "rows": rows}, indent=1)
        write_atomically(self.path / "leaderboard.json", text + "\n")
        lines = _Lines()
        table = csv.DictWriter(lines, list(rows[0]) if rows else [], lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        write_atomically(self.path / "leaderboard.csv", "".join(lines))

    def points(self) -> dict[str, list[tuple[Any, list[float]]]]:
        """For each swept key its values, with the first objective of each member that has it."""
        first = self.objectives[0]
        return {
            key: [(number_or_text(row.settings[key]), row.metrics.get(first, [])) for row in self.rows]
            for key in self.keys
        }


class _Lines(list[str]):
    write = list.append  # what csv takes for a file


def _front(scores: Sequence[Sequence[float | None]], names: Sequence[str]) -> list[bool]:
    """Which rows no other one is at least as good as in all objectives and better in one: the Pareto front."""
    signs = [direction_sign(name) for name in names]
    points = [
        None if any(one is None for one in row) else [s * (one or 0.0) for s, one in zip(signs, row, strict=True)]
        for row in scores
    ]

    def beaten(point: list[float]) -> bool:
        return any(
            other is not None and other != point and all(a >= b for a, b in zip(other, point, strict=True))
            for other in points
        )

    return [point is not None and not beaten(point) for point in points]


def _shown(mean: float | None, spread: float | None) -> str:
    if mean is None:
        return "-"
    form = ".4f" if abs(mean) < 100 else ".6g"
    return f"{mean:{form}}" if spread is None else f"{mean:{form}} ± {spread:{form}}"
