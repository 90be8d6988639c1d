"""The runs that a command takes: those below a directory, or among what a pattern of the shell matches."""

import os
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


def runs_among(paths: Sequence[Path], least: int = 1, sweeps: bool = False) -> list[Path]:
    """Return the paths that are runs, and print on standard error which others there are.

    Sweeps, and what lies beside a run, are passed over, because a pattern such as outputs/default/* also matches them.
    least: how many runs there have to be. sweeps: whether sweeps count as runs. Raises RequestError for any other path,
    and where a path is no run and there are too few runs.
    """
    found = [path for path in paths if _is_run(path, sweeps)]
    others = [path for path in paths if path not in found]
    places = {path.parent for path in found}
    for path in others:
        if len(found) < least or not path.exists() or (path.parent not in places and not is_sweep(path)):
            read_record(path)  # its error tells what the path is
    what = "is no run and no sweep" if sweeps else "is no run directory"
    if len(others) <= MOST_LEFT_OUT:
        for path in others:
            print(f"left out: {path} {what}", file=sys.stderr)
    else:
        print(f"left out: {len(others):,} paths, such as {others[0]}, which {what}", file=sys.stderr)
    return found


def is_path(word: str) -> bool:
    """Return whether a word behind a RUN is one more path: an existing one with a slash, or a run or a sweep."""
    return os.path.exists(word) and ("/" in word or _is_run(Path(word), sweeps=True))


def _is_run(path: Path, sweeps: bool) -> bool:
    return (path / "run.json").exists() or (sweeps and is_sweep(path))
