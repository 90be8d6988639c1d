"""Read run directories: the record, the config and the metrics of each epoch."""

import errno
import fcntl
import json
import math
import os
import stat
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from textwrap import shorten
from typing import Any, cast

import yaml

from lamella.config.files import GROUPS, OPTIONAL
from lamella.config.values import Config, check_values
from lamella.errors import RequestError, first_line
from lamella.runs.files import METRICS, PREPROCESSING
from lamella.runs.schema import RECORD_FORMAT, STATES, RunRecord, wrong_field

OPEN_RUNS: set[Path] = set()  # the runs that this process writes


def read_run(path: Path) -> tuple[RunRecord, Config]:
    """Return a run's record and its config, after checking the types of the fields that every reader uses.

    Raises RequestError where `path` is not a run directory, is damaged, was written by another version of Lamella, or
    contains a link to a file outside of the run or something else than files and directories.
    """
    fields = read_record(path)
    for entry in path.rglob("*"):
        check_entry(path, entry)
    return fields, _read_config(path)


def read_record(path: Path) -> RunRecord:
    """Return a run's record alone. Raises RequestError as `read_run` does.

    A run that is recorded as running, and that no process writes, was killed: its status is "interrupted".
    """
    try:
        loaded = parse_json(read_text(path, "run.json"))
    except (OSError, ValueError, RecursionError) as error:
        raise _not_a_run(path, "run.json", error) from error
    fields = _checked_record(path, loaded)
    if fields["status"] == "running" and not is_being_written(path):
        fields["status"] = "interrupted"
    return fields


def parse_json(text: str) -> Any:
    """Return the value of a JSON text. Raises ValueError where it is damaged or a number is larger than any float."""

    def whole_number(digits: str) -> int:
        if math.isinf(float(digits)):
            raise ValueError(f"the number {digits[:10]}… is too large")
        return int(digits)

    return json.loads(text, parse_int=whole_number)


def read_text(path: Path, name: str) -> str:
    """Return the text of the file `name` of a run.

    Raises RequestError where the file is a link that leads out of the run, and OSError where it cannot be read.
    """
    file = f"{path}/{name}"  # for ten thousand runs, Path objects would take a third of the time
    kind = os.lstat(file).st_mode
    if stat.S_ISLNK(kind):
        check_entry(path, path / name)
        kind = os.stat(file).st_mode
    if not stat.S_ISREG(kind):
        raise OSError(errno.EINVAL, "no ordinary file", file)
    with open(file, encoding="utf-8") as opened:
        return opened.read()


def read_epochs(path: Path) -> list[dict[str, float]]:
    """Return the lines of a run's `metrics.jsonl`, one mapping per epoch. Raises RequestError where it is damaged."""
    try:
        lines = [parse_json(line) for line in read_text(path, METRICS).splitlines() if line.endswith("}")]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"{path / METRICS} is damaged ({first_line(error)})") from error
    for number, line in enumerate(lines, 1):
        if line.get("epoch") != number or not all(isinstance(value, int | float) for value in line.values()):
            raise RequestError(f"{path / METRICS} is damaged: line {number} does not belong to epoch {number}")
    return lines


def check_metrics(path: Path, sizes: Mapping[str, int]) -> None:
    """Raise RequestError where the `metrics.jsonl` of a run is damaged, or lacks lines that it had at a checkpoint.

    sizes: of the growing files at the checkpoint, in bytes by name.
    """
    file, known = path / METRICS, sizes.get(METRICS, 0)
    size = file.stat().st_size if file.exists() else 0
    if size < known:
        raise RequestError(
            f"{file}: it has {size} bytes, but {known} when the checkpoint was saved: the metrics of finished epochs "
            "are lost;\n  put the file back, or begin a new run with `lamella train`"
        )
    read_epochs(path)


def unfinished_note(fields: RunRecord) -> str | None:
    """Return a note for a run that has checkpoints and is not finished, None for any other run."""
    if fields["status"] == "finished" or not fields["epochs"]:
        return None
    state = "is still in training" if fields["status"] == "running" else f"is {fields['status']}"
    return f"note: the run {state}, after epoch {fields['epochs']}; its checkpoints are what it has so far"


def read_preprocessing(path: Path) -> dict[str, object] | None:
    """Return what the encoder of a run has learned, None where the run has no encoder. Raises RequestError."""
    try:
        state = parse_json(read_text(path, PREPROCESSING))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"{path / PREPROCESSING} is damaged ({first_line(error)})") from error
    if not isinstance(state, dict):
        raise RequestError(f"{path / PREPROCESSING} is damaged: it holds no mapping")
    return state


def is_being_written(path: Path) -> bool:
    """Return whether a process has the run in `path` open for writing."""
    if path.resolve() in OPEN_RUNS:  # a process that closes any descriptor of a file loses its locks on that file
        return True
    try:
        if not stat.S_ISREG((path / "log.txt").lstat().st_mode):
            return False
        with (path / "log.txt").open() as log:
            fcntl.lockf(log, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EAGAIN, errno.EACCES)
    return False


def check_entry(path: Path, entry: Path, kind: str = "run") -> None:
    """Raise RequestError where `entry` is a link that leads out of the directory `path`, or no file and no directory.

    kind: what the directory is of, "run" or "sweep".
    """
    try:
        mode = entry.lstat().st_mode
    except FileNotFoundError:  # the process that writes the run has removed it
        return
    if stat.S_ISLNK(mode):
        if not Path(os.path.realpath(entry)).is_relative_to(os.path.realpath(path)):
            raise RequestError(f"{entry} is a link that leads out of the {kind}; put there what it links to")
    elif not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # reading a FIFO would wait for ever
        raise RequestError(f"{entry} is neither a file nor a directory; remove it")


def _checked_record(path: Path, fields: object) -> RunRecord:
    """Return the content of `run.json` as a record. Raises RequestError where its format or a field is wrong."""
    damaged = f"{path} is not a run directory: its run.json is damaged"
    if not isinstance(fields, dict):
        raise RequestError(f"{damaged}, it holds no mapping")
    versions, number = fields.get("versions"), fields.get("format")
    if number != RECORD_FORMAT:
        writer = f"lamella {versions.get('lamella')}" if isinstance(versions, dict) else "another lamella"
        raise RequestError(
            f"{path}: its record is of format {number!r}, written by {writer}; this is lamella {version('lamella')}, "
            f"which reads format {RECORD_FORMAT}:\n  install the version that wrote it"
        )
    if (wrong := wrong_field(fields, RunRecord)) == "status":
        raise RequestError(f"{damaged}, status is {fields.get('status')!r}; it is one of {', '.join(STATES)}")
    if wrong:
        raise RequestError(f"{damaged}, {wrong} is {shorten(repr(fields.get(wrong)), 100)}")
    return cast(RunRecord, fields)  # wrong_field has checked the type of every field


def _read_config(path: Path) -> Config:
    """Return the content of a run's `config.yaml`. Raises RequestError where a group or a key of the root is wrong."""
    try:
        config: object = yaml.safe_load(read_text(path, "config.yaml"))
        check_values(config)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise _not_a_run(path, "config.yaml", error) from error
    types = dict.fromkeys(GROUPS, dict) | {"name": str, "seed": int, "monitor": str}
    groups = config if isinstance(config, dict) else {}
    for key, kind in types.items():
        if not isinstance(groups.get(key, {} if key in OPTIONAL else None), kind):
            raise RequestError(
                f"{path} is not a run directory: its config.yaml is damaged, {key} is not there or wrong"
            )
    return groups


def _not_a_run(path: Path, file: str, error: BaseException) -> RequestError:
    """Return the error that says why `path` cannot be opened as a run, given what reading its `file` raised."""
    if isinstance(error, RequestError):
        return RequestError(f"{path} is not a run directory: its {file} is damaged, {error}")
    if not isinstance(error, OSError):
        return RequestError(f"{path} is not a run directory: its {file} is damaged ({first_line(error)})")
    if not path.is_dir():
        state = "is a file" if path.exists() else "is not there"
        return RequestError(f"{path} {state}; a run is a directory that `lamella train` has made")
    if not isinstance(error, FileNotFoundError):
        return RequestError(f"{path} is not a run directory: its {file} cannot be read ({error.strerror})")
    found = (run.parent for run in path.rglob("run.json") if "/." not in f"/{run.relative_to(path)}")
    if file == "run.json" and (inside := next(found, None)):
        return RequestError(f"{path} is not a run directory, it holds runs; give one of them, as {inside}")
    return RequestError(f"{path} is not a run directory: it holds no {file}; `lamella train` makes one")
