"""The runs that a command takes: those below a directory, or among what a pattern of the shell matches."""

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from lamella.console import print
from lamella.runs.listing import Runs, runs
from lamella.runs.reader import read_record
from lamella.runs.sweep_directory import is_sweep

MOST_LEFT_OUT = 5  # paths that are named one by one


def intact_runs(directory: Path) -> Runs:
    """Return the runs below a directory, and print which are left out because they are damaged. Raises RequestError."""
    with warnings.catch_warnings(record=True) as damaged:
        warnings.simplefilter("always")
        found = runs(directory)
        for record in found:
            _ = record.notes  # warns where they are damaged
    for warning in damaged:
        print(f"left out: {warning.message}", file=sys.stderr)
    return found


def runs_and_sweeps(paths: Sequence[Path]) -> list[Path]:
    """Return the paths that are runs or sweeps, and print which others there are.

    Raises RequestError where there is no such path, or none of them is a run or a sweep.
    """
    found = [path for path in paths if (path / "run.json").exists() or is_sweep(path)]
    others = [path for path in paths if path not in found]
    for path in others:
        if not found or not path.exists():
            read_record(path)  # its error tells what the path is
    print_left_out(others)
    return found


def print_left_out(paths: Sequence[Path]) -> None:
    """Print on standard error which paths are passed over because they are no run directories."""
    if len(paths) <= MOST_LEFT_OUT:
        for path in paths:
            print(f"left out: {path} is no run directory", file=sys.stderr)
    else:
        print(f"left out: {len(paths):,} paths that are no run directories, such as {paths[0]}", file=sys.stderr)
