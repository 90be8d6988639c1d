"""lamella runs [DIR]: list runs; sort and filter them. Of a sweep's directory, its leaderboard.

lamella runs
lamella runs outputs/default/widths
lamella runs outputs/default --sort val/accuracy --filter 'optimizer.lr<1e-2 and status=finished'
lamella runs --columns directory,seed,optimizer.lr,test/accuracy --csv
"""

import argparse
import csv
import json
import sys
import warnings
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from lamella.runs.listing import runs
from lamella.runs.sweep_directory import Sweep, is_sweep
from lamella.sweeps.leaderboard import Leaderboard
from lamella.tables import format_duration, format_table

if TYPE_CHECKING:
    from lamella.runs.listing import Runs

WIDE = 48  # letters of the overrides that a table shows


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "lamella runs", description="List runs, the newest last; of a sweep, its leaderboard."
    )
    parser.add_argument("directory", metavar="DIR", nargs="?", default="outputs", type=Path, help="default: outputs")
    parser.add_argument("--sort", metavar="KEY", help="a metric (best first), a field of run.json, a key of the config")
    parser.add_argument("--reverse", action="store_true", help="the other way round")
    parser.add_argument("--filter", metavar="CONDITION", help="as 'optimizer.lr<1e-2 and status=finished'")
    parser.add_argument("--columns", metavar="KEY,KEY", help="what to show")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for programs: whole records, or the columns")
    form.add_argument("--csv", action="store_true", help="for programs: every plain field, or the columns")
    options = parser.parse_args(arguments)
    if is_sweep(options.directory) and len(arguments) == 1:
        print(Leaderboard(Sweep(options.directory)).table())
        return 0
    with warnings.catch_warnings(record=True) as damaged:
        warnings.simplefilter("always")
        found = runs(options.directory)
    for warning in damaged:
        print(f"left out: {warning.message}", file=sys.stderr)
    columns = options.columns.split(",") if options.columns else None
    for column in columns or []:
        found.check(column)
    if options.sort:
        found = found.by(options.sort, options.reverse)
    elif options.reverse:
        found.reverse()
    if options.filter:
        found = found.where(options.filter)
    if options.json:
        rows = [
            {"directory": str(record.path), **record.fields}
            if columns is None
            else {column: record.get(column) for column in columns}
            for record in found
        ]
        print(json.dumps(rows, indent=1, default=str))
    elif options.csv:
        _csv(found, columns)
    elif found:
        print(_table(found, columns or _columns(found), shortened=columns is None))
    else:
        print(f"no runs in {options.directory}" + (" meet the condition" if options.filter else ""))
    return 0


def _columns(found: "Runs") -> list[str]:
    metrics = {name for record in found for name in record.fields["metrics"]}
    shown = [name for stage in ("val/", "test/") for name in sorted(metrics, reverse=True) if name.startswith(stage)]
    return ["name", "overrides", "status", "best_epoch", *shown, "seconds", "age", "directory"]


def _csv(found: "Runs", columns: list[str] | None) -> None:
    rows = found.rows() if columns is None else [{key: record.get(key) for key in columns} for record in found]
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = csv.DictWriter(sys.stdout, columns or names, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)


def _table(found: "Runs", columns: list[str], shortened: bool) -> str:
    rows, common = [columns], set.intersection(*(set(record.fields["overrides"]) for record in found))
    for record in found:
        cells = [_cell(name, record.get(name)) for name in columns]
        if shortened:
            overrides = sorted(record.fields["overrides"], key=lambda text: text in common)  # what differs comes first
            cells[columns.index("overrides")] = shorten(" ".join(overrides) or "-", WIDE, placeholder=" …")
        rows.append(cells)
    return format_table(rows)


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name in ("seconds", "age"):
        return format_duration(value)
    if isinstance(value, list):
        return " ".join(map(str, value)) or "-"
    if isinstance(value, float):
        return f"{value:.4f}" if "/" in name else f"{value:g}"
    return str(value)
