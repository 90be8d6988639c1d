"""lamella runs [DIR]: list, sort and filter runs; for the directory of a sweep, show its leaderboard.

lamella runs
lamella runs outputs/default/widths
lamella runs outputs/default --sort val/accuracy --filter 'optimizer.lr<1e-2 and status=finished'
lamella runs --columns directory,seed,optimizer.lr,test/accuracy --csv
lamella runs --filter '(tags ~ good or note ~ "as planned") and started>=2026-11-01' --limit 10
lamella runs --group-by network,optimizer.lr --sort test/accuracy
"""

import argparse
import json
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

from lamella.commands.parser import CommandParser
from lamella.commands.several_runs import intact_runs
from lamella.console import print
from lamella.runs.groups import group_runs
from lamella.runs.notes import read_notes
from lamella.runs.sweep_directory import Sweep, is_sweep
from lamella.sweeps.leaderboard import Leaderboard, time_line
from lamella.tables import format_csv, format_duration, format_mean, format_table

if TYPE_CHECKING:
    from lamella.runs.listing import Record, Runs

PARENT = "weights.from"  # the run or the file whose weights a run began with
OVERRIDES_WIDTH = 48  # characters of the overrides, and of the note, that a table shows


def main(arguments: list[str]) -> int:
    """Print runs as a table, as JSON or as CSV, and return the exit status."""
    options = _parse(arguments)
    if is_sweep(options.directory) and len(arguments) == 1:
        sweep = Sweep(options.directory)
        print(*read_notes(options.directory).lines(), Leaderboard(sweep).table(), sep="\n")
        if line := time_line(sweep):
            print(f"\n{line}")
        return 0
    columns = options.columns.split(",") if options.columns else None
    selected = _selected_runs(options, columns)
    if not selected and not (options.json or options.csv):
        print(f"no runs in {options.directory}" + (" meet the condition" if options.filter else ""))
    elif options.group_by:
        _print_groups(options, selected, columns)
    elif options.json:
        rows = [
            {"directory": str(record.path), **record.fields, **_plain_notes(record)}
            if columns is None
            else {column: record.get(column) for column in columns}
            for record in selected
        ]
        print(json.dumps(rows, indent=1, default=str))
    elif options.csv:
        _print_csv(selected, columns)
    else:
        print(_table(selected, columns or _default_columns(selected), shortened=columns is None))
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("directory", metavar="DIR", nargs="?", default="outputs", type=Path, help="default: outputs")
    parser.add_argument("--sort", metavar="KEY", help="a metric (best first), a field of run.json, a key of the config")
    parser.add_argument("--reverse", action="store_true", help="the other way round")
    parser.add_argument("--filter", metavar="CONDITION", help="as 'optimizer.lr<1e-2 and (seed=1 or tags ~ good)'")
    parser.add_argument("--limit", metavar="N", type=int, help="the first N runs, or without --sort the newest")
    parser.add_argument("--group-by", metavar="KEY,KEY", help="the mean ± sd over the runs with the same values")
    parser.add_argument("--columns", metavar="KEY,KEY", help="what to show")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for programs: whole records, or the columns")
    form.add_argument("--csv", action="store_true", help="for programs: every plain field, or the columns")
    options = parser.parse_args(arguments)
    if options.limit is not None and options.limit < 1:
        parser.error(f"--limit is {options.limit}; it takes a number of runs from 1 on")
    return options


def _selected_runs(options: argparse.Namespace, columns: list[str] | None) -> "Runs":
    """Return the runs that meet the condition, in the order that was asked for. Raises RequestError."""
    selected = intact_runs(options.directory)
    for column in columns or []:
        selected.check(column)
    if options.sort:
        selected = selected.by(options.sort, options.reverse)
    elif options.reverse:
        selected.reverse()
    if options.filter:
        selected = selected.where(options.filter)
    if options.limit and not options.group_by:
        kept = slice(options.limit) if options.sort or options.reverse else slice(-options.limit, None)
        selected[:] = selected[kept]
    return selected


def _default_columns(selected: "Runs") -> list[str]:
    """Return the columns of a table: with the notes and the metrics that any of the runs has."""
    parent = [PARENT] if any("weights" in record.fields for record in selected) else []
    notes = [name for name in ("tags", "note") if any(record[name] for record in selected)]
    shown = [*notes, "status", "best_epoch", *_results(selected), "seconds", "age"]
    return ["name", "overrides", *shown, *parent, "directory"]


def _results(selected: "Runs") -> list[str]:
    """Return the metrics of validation and test that any of the runs has."""
    metrics = {name for record in selected for name in record.fields["metrics"]}
    return [name for stage in ("val/", "test/") for name in sorted(metrics, reverse=True) if name.startswith(stage)]


def _plain_notes(record: "Record") -> dict[str, object]:
    """Return the tags and the notes of a run for JSON."""
    notes = [{"time": time.isoformat(), "text": text} for time, text in record.notes.notes]
    return {"tags": record.notes.tags, "notes": notes}


def _print_groups(options: argparse.Namespace, selected: "Runs", columns: list[str] | None) -> None:
    """Print one row per group of runs: the values of the keys, the number of runs, and the mean of each column."""
    keys = options.group_by.split(",")
    shown = [column for column in columns or _results(selected) if column not in keys]
    if options.sort and options.sort not in [*keys, *shown]:
        shown.append(options.sort)
    groups = group_runs(selected, keys, shown, options.sort, options.reverse)[: options.limit]
    rows = [group.row() for group in groups]
    if options.json:
        print(json.dumps(rows, indent=1, default=str))
    elif options.csv:
        print(format_csv([list(rows[0]), *(row.values() for row in rows)] if rows else []), end="")
    else:
        lines = [[*keys, "n", *shown]]
        for group in groups:
            line = [*(_cell(key, value) for key, value in group.settings.items()), str(group.n)]
            for column, values in group.results.items():
                some = f" (n={len(values)})" if 0 < len(values) < group.n else ""
                line.append(format_mean(group.mean(column), group.spread(column)) + some)
            lines.append(line)
        print(format_table(lines, shown[::-1]))


def _print_csv(selected: "Runs", columns: list[str] | None) -> None:
    """Print the runs as CSV. columns: by default every plain field."""
    rows = selected.rows() if columns is None else [{key: record.get(key) for key in columns} for record in selected]
    names = list(dict.fromkeys(name for row in rows for name in row))
    heads = columns or names
    print(format_csv([heads, *([row.get(head) for head in heads] for row in rows)]), end="")


def _table(selected: "Runs", columns: list[str], shortened: bool) -> str:
    """Return the runs as a table. shortened: whether long overrides are cut, those that all runs share first."""
    rows, common = [columns], set.intersection(*(set(record.fields["overrides"]) for record in selected))
    for record in selected:
        cells = [_cell(name, record.get(name)) for name in columns]
        if "reproduces" in record.fields and "status" in columns:
            cells[columns.index("status")] += " (reproduction)"
        if shortened:
            # What differs comes first, because what comes last is cut.
            overrides = sorted(record.fields["overrides"], key=lambda text: text in common)
            cells[columns.index("overrides")] = shorten(" ".join(overrides) or "-", OVERRIDES_WIDTH, placeholder=" …")
            if "note" in columns:
                cells[columns.index("note")] = shorten(record["note"] or "-", OVERRIDES_WIDTH, placeholder=" …")
        rows.append(cells)
    return format_table(rows, _droppable(columns) if shortened else columns[:0:-1])


def _droppable(columns: list[str]) -> list[str]:
    """Return the columns that a table loses on a narrow terminal, the first one first.

    Losses say less than the metrics beside them, and the validation says less than the test.
    """
    metrics = [name for name in reversed(columns) if "/" in name]
    losses = [name for name in metrics if name.endswith("/loss")]
    others = [name for name in metrics if name.startswith("val/") and name not in losses]
    return ["best_epoch", "name", "age", *losses, "seconds", "overrides", *others, "note", "status", PARENT, "tags"]


def _cell(name: str, value: object) -> str:
    if value is None:
        return "-"
    if name in ("seconds", "age") and isinstance(value, int | float):
        return format_duration(value)
    if isinstance(value, list):
        return " ".join(map(str, value)) or "-"
    if isinstance(value, str):
        return " ".join(value.split("\n"))
    if isinstance(value, float):
        return f"{value:.4f}" if "/" in name else f"{value:g}"
    return str(value)
