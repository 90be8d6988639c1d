"""Run directories as their readers see them."""

import errno
import fcntl
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from lamella.conf import GROUPS
from lamella.errors import RequestError, first_line

METRICS = "metrics.jsonl"
FORMAT = 1  # of run.json
KINDS: dict[str, Any] = {  # what every reader takes for granted
    "status": str,
    "name": str,
    "overrides": list,
    "seed": int,
    "device": str,
    "epochs": int,
    "steps": int,
    "seconds": int | float,
    "started": str,
    "metrics": dict,
    "best_epoch": int | None,
    "versions": dict,
    "git": dict | None,
}
OPEN: set[Path] = set()  # runs that this process writes


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A run's record and its config, both checked for what every reader takes for granted.

    Raises RequestError where `path` is no run directory, is damaged, was written by a later version of Lamella, or
    holds a link that leads out of it.
    """
    fields = read_fields(path)
    for entry in path.rglob("*"):
        if entry.is_symlink() and not entry.resolve().is_relative_to(path.resolve()):
            raise RequestError(f"{entry} is a link that leads out of the run; put there what it links to")
    try:
        config = yaml.safe_load((path / "config.yaml").read_text())
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise _no_run(path, "config.yaml", error) from error
    wrong = [group for group in GROUPS if not isinstance(config, dict) or not isinstance(config.get(group), dict)]
    if wrong:
        raise RequestError(f"{path} is no run directory: its config.yaml is damaged, it has no mapping {wrong[0]!r}")
    return fields, config


def read_fields(path: Path) -> dict[str, Any]:
    """A run's record alone. Raises RequestError."""
    try:
        fields = json.loads((path / "run.json").read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise _no_run(path, "run.json", error) from error
    if not isinstance(fields, dict):
        raise RequestError(f"{path} is no run directory: its run.json is damaged, it holds no mapping")
    written, number = fields.get("versions"), fields.get("format", FORMAT)
    if number != FORMAT:
        by = f"lamella {written.get('lamella')}" if isinstance(written, dict) else "another lamella"
        raise RequestError(
            f"{path}: its record is of format {number!r}, written by {by}; this is lamella {version('lamella')}, which "
            f"reads format {FORMAT}:\n  install the version that wrote it"
        )
    for name, kind in KINDS.items():
        if not isinstance(fields.get(name), kind):
            raise RequestError(f"{path} is no run directory: its run.json is damaged, {name} is {fields.get(name)!r}")
    if not all(isinstance(value, int | float) for value in fields["metrics"].values()):
        raise RequestError(f"{path} is no run directory: its run.json is damaged, metrics holds what is no number")
    if fields["status"] == "running" and not alive(path):
        fields["status"] = "interrupted"  # without the time to say so
    return fields


def _no_run(path: Path, file: str, error: BaseException) -> RequestError:
    if not isinstance(error, OSError):
        return RequestError(f"{path} is no run directory: its {file} is damaged ({first_line(error)})")
    if not path.is_dir():
        state = "is a file" if path.exists() else "is not there"
        return RequestError(f"{path} {state}; a run is a directory that `lamella train` has made")
    inside = next(path.rglob("run.json"), None) if file == "run.json" else None
    if inside:
        return RequestError(f"{path} is no run directory, it holds runs; give one of them, as {inside.parent}")
    reason = "holds no" if isinstance(error, FileNotFoundError) else f"does not let its readers have ({error.strerror})"
    return RequestError(f"{path} is no run directory: it {reason} {file}; `lamella train` makes one")


def epochs(path: Path) -> list[dict[str, Any]]:
    """What a run has written in `metrics.jsonl`, a mapping an epoch. Raises RequestError where that is damaged."""
    file = path / METRICS
    try:
        lines = [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise RequestError(f"{file} is damaged ({first_line(error)})") from error
    return [line for line in lines if isinstance(line, dict)]


def unfinished(fields: Mapping[str, Any]) -> str | None:
    """What to say of a run that has checkpoints, but has not been trained to its end."""
    if fields["status"] == "finished" or not fields["epochs"]:
        return None
    state = "is still in training" if fields["status"] == "running" else f"is {fields['status']}"
    return f"note: the run {state}, after epoch {fields['epochs']}; its checkpoints are what it has so far"


def alive(path: Path) -> bool:
    """Whether a process has the run in `path` open for writing."""
    if path.resolve() in OPEN:  # to close one more file of this process's own would give up its lock
        return True
    try:
        with (path / "log.txt").open() as log:
            fcntl.lockf(log, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EAGAIN, errno.EACCES)
    return False
