"""Run directories as their readers see them."""

import errno
import fcntl
import json
import os
import stat
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from textwrap import shorten
from typing import Any

import yaml

from lamella.config.files import GROUPS
from lamella.config.values import check_values
from lamella.errors import RequestError, first_line
from lamella.runs.files import METRICS
from lamella.runs.schema import RECORD_FORMAT, STATES, wrong_field

OPEN: set[Path] = set()  # runs that this process writes


def read_run(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A run's record and its config, both checked for what every reader takes for granted.

    Raises RequestError where `path` is no run directory, is damaged, was written by another version of Lamella, or
    holds a link that leads out of it.
    """
    fields = read_record(path)
    for entry in path.rglob("*"):
        _check_link(path, entry)
    try:
        config = yaml.safe_load(read_text(path, "config.yaml"))
        check_values(config)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise _no_run(path, "config.yaml", error) from error
    keys = dict.fromkeys(GROUPS, dict) | {"name": str, "seed": int, "monitor": str}
    wrong = [key for key, kind in keys.items() if not isinstance(config, dict) or not isinstance(config.get(key), kind)]
    if wrong:
        raise RequestError(f"{path} is no run directory: its config.yaml is damaged, {wrong[0]} is not there or wrong")
    return fields, config


def read_record(path: Path) -> dict[str, Any]:
    """A run's record alone. Raises RequestError."""
    try:
        fields = json.loads(read_text(path, "run.json"))
    except (OSError, ValueError, RecursionError) as error:
        raise _no_run(path, "run.json", error) from error
    damaged = f"{path} is no run directory: its run.json is damaged"
    if not isinstance(fields, dict):
        raise RequestError(f"{damaged}, it holds no mapping")
    written, number = fields.get("versions"), fields.get("format")
    if number != RECORD_FORMAT:
        by = f"lamella {written.get('lamella')}" if isinstance(written, dict) else "another lamella"
        raise RequestError(
            f"{path}: its record is of format {number!r}, written by {by}; this is lamella {version('lamella')}, which "
            f"reads format {RECORD_FORMAT}:\n  install the version that wrote it"
        )
    if (wrong := wrong_field(fields)) == "status":
        raise RequestError(f"{damaged}, status is {fields.get('status')!r}; it is one of {', '.join(STATES)}")
    if wrong:
        raise RequestError(f"{damaged}, {wrong} is {shorten(repr(fields.get(wrong)), 100)}")
    if fields["status"] == "running" and not is_being_written(path):
        fields["status"] = "interrupted"  # without the time to say so
    return fields


def read_text(path: Path, name: str) -> str:
    """What a file of a run holds. Raises RequestError for a link that leads out of it, and OSError."""
    file = f"{path}/{name}"  # of ten thousand runs, paths as objects would take a third of the time
    kind = os.lstat(file).st_mode
    if stat.S_ISLNK(kind):
        _check_link(path, path / name)
        kind = os.stat(file).st_mode
    if not stat.S_ISREG(kind):
        raise OSError(errno.EINVAL, "no ordinary file", file)
    with open(file) as opened:
        return opened.read()


def _check_link(path: Path, entry: Path) -> None:
    if entry.is_symlink() and not entry.resolve().is_relative_to(path.resolve()):
        raise RequestError(f"{entry} is a link that leads out of the run; put there what it links to")


def _no_run(path: Path, file: str, error: BaseException) -> RequestError:
    if isinstance(error, RequestError):
        return RequestError(f"{path} is no run directory: its {file} is damaged, {error}")
    if not isinstance(error, OSError):
        return RequestError(f"{path} is no run directory: its {file} is damaged ({first_line(error)})")
    if not path.is_dir():
        state = "is a file" if path.exists() else "is not there"
        return RequestError(f"{path} {state}; a run is a directory that `lamella train` has made")
    inside = next(path.rglob("run.json"), None) if file == "run.json" and isinstance(error, FileNotFoundError) else None
    if inside:
        return RequestError(f"{path} is no run directory, it holds runs; give one of them, as {inside.parent}")
    reason = "holds no" if isinstance(error, FileNotFoundError) else f"does not let its readers have ({error.strerror})"
    return RequestError(f"{path} is no run directory: it {reason} {file}; `lamella train` makes one")


def read_epochs(path: Path) -> list[dict[str, Any]]:
    """What a run has written in `metrics.jsonl`, a mapping an epoch. Raises RequestError where that is damaged."""
    try:
        lines = [json.loads(line) for line in read_text(path, METRICS).splitlines() if line.endswith("}")]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"{path / METRICS} is damaged ({first_line(error)})") from error
    for number, line in enumerate(lines, 1):
        if line.get("epoch") != number or not all(isinstance(value, int | float) for value in line.values()):
            raise RequestError(f"{path / METRICS} is damaged: line {number} is not that of epoch {number}")
    return lines


def unfinished_note(fields: Mapping[str, Any]) -> str | None:
    """What to say of a run that has checkpoints, but has not been trained to its end."""
    if fields["status"] == "finished" or not fields["epochs"]:
        return None
    state = "is still in training" if fields["status"] == "running" else f"is {fields['status']}"
    return f"note: the run {state}, after epoch {fields['epochs']}; its checkpoints are what it has so far"


def is_being_written(path: Path) -> bool:
    """Whether a process has the run in `path` open for writing."""
    if path.resolve() in OPEN:  # to close one more file of this process's own would give up its lock
        return True
    try:
        if not stat.S_ISREG((path / "log.txt").lstat().st_mode):
            return False
        with (path / "log.txt").open() as log:
            fcntl.lockf(log, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EAGAIN, errno.EACCES)
    return False
