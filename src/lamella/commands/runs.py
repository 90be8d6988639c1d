"""lamella runs [DIR]: list, sort and filter runs; for the directory of a sweep, show its leaderboard.

lamella runs
lamella runs outputs/default/widths
lamella runs outputs/default --sort val/accuracy --filter 'optimizer.lr<1e-2 and status=finished'
lamella runs --columns directory,seed,optimizer.lr,test/accuracy --csv
"""

import argparse
import json
import sys
import warnings
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

from lamella.commands.parser import CommandParser
from lamella.console import print
from lamella.runs.listing import runs
from lamella.runs.sweep_directory import Sweep, is_sweep
from lamella.sweeps.leaderboard import Leaderboard, time_line
from lamella.tables import format_csv, format_duration, format_table

if TYPE_CHECKING:
    from lamella.runs.listing import Runs

PARENT = "weights.from"  # the run or the file whose weights a run began with
OVERRIDES_WIDTH = 48  # characters of the overrides that a table shows


def main(arguments: list[str]) -> int:
    """Print runs as a table, as JSON or as CSV, and return the exit status."""
    options = _parse(arguments)
    if is_sweep(options.directory) and len(arguments) == 1:
        sweep = Sweep(options.directory)
        print(Leaderboard(sweep).table())
        if line := time_line(sweep):
            print(f"\n{line}")
        return 0
    columns = options.columns.split(",") if options.columns else None
    selected = _selected_runs(options, columns)
    if options.json:
        rows = [
            {"directory": str(record.path), **record.fields}
            if columns is None
            else {column: record.get(column) for column in columns}
            for record in selected
        ]
        print(json.dumps(rows, indent=1, default=str))
    elif options.csv:
        _print_csv(selected, columns)
    elif selected:
        print(_table(selected, columns or _default_columns(selected), shortened=columns is None))
    else:
        print(f"no runs in {options.directory}" + (" meet the condition" if options.filter else ""))
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("directory", metavar="DIR", nargs="?", default="outputs", type=Path, help="default: outputs")
    parser.add_argument("--sort", metavar="KEY", help="a metric (best first), a field of run.json, a key of the config")
    parser.add_argument("--reverse", action="store_true", help="the other way round")
    parser.add_argument("--filter", metavar="CONDITION", help="as 'optimizer.lr<1e-2 and status=finished'")
    parser.add_argument("--columns", metavar="KEY,KEY", help="what to show")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for programs: whole records, or the columns")
    form.add_argument("--csv", action="store_true", help="for programs: every plain field, or the columns")
    return parser.parse_args(arguments)


def _selected_runs(options: argparse.Namespace, columns: list[str] | None) -> "Runs":
    """Return the runs that meet the condition, in the order that was asked for.

    Runs that are damaged are left out, with a line on standard error. Raises RequestError for an unknown key.
    """
    with warnings.catch_warnings(record=True) as damaged:
        warnings.simplefilter("always")
        selected = runs(options.directory)
    for warning in damaged:
        print(f"left out: {warning.message}", file=sys.stderr)
    for column in columns or []:
        selected.check(column)
    if options.sort:
        selected = selected.by(options.sort, options.reverse)
    elif options.reverse:
        selected.reverse()
    if options.filter:
        selected = selected.where(options.filter)
    return selected


def _default_columns(selected: "Runs") -> list[str]:
    """Return the columns of a table: with the metrics of validation and test that any of the runs has."""
    metrics = {name for record in selected for name in record.fields["metrics"]}
    shown = [name for stage in ("val/", "test/") for name in sorted(metrics, reverse=True) if name.startswith(stage)]
    parent = [PARENT] if any("weights" in record.fields for record in selected) else []
    return ["name", "overrides", "status", "best_epoch", *shown, "seconds", "age", *parent, "directory"]


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
        rows.append(cells)
    return format_table(rows, _droppable(columns) if shortened else columns[:0:-1])


def _droppable(columns: list[str]) -> list[str]:
    """Return the columns that a table loses on a narrow terminal, the first one first.

    Losses say less than the metrics beside them, and the validation says less than the test.
    """
    metrics = [name for name in reversed(columns) if "/" in name]
    losses = [name for name in metrics if name.endswith("/loss")]
    others = [name for name in metrics if name.startswith("val/") and name not in losses]
    return ["best_epoch", "name", "age", *losses, "seconds", "overrides", *others, "status", PARENT]


def _cell(name: str, value: object) -> str:
    if value is None:
        return "-"
    if name in ("seconds", "age") and isinstance(value, int | float):
        return format_duration(value)
    if isinstance(value, list):
        return " ".join(map(str, value)) or "-"
    if isinstance(value, float):
        return f"{value:.4f}" if "/" in name else f"{value:g}"
    return str(value)
