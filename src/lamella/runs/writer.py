"""Write run directories: what a run was asked for, what it has done and what came out."""

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO, Unpack

import yaml

from lamella.atomic_files import open_to_append, write_atomically
from lamella.config.values import Config
from lamella.console import tolerant_output
from lamella.errors import RequestError
from lamella.runs.files import METRICS, NEW, RUN_FILES, unrecorded_seconds
from lamella.runs.identity import run_identity
from lamella.runs.provenance import git_state, installed_versions
from lamella.runs.reader import OPEN_RUNS, read_run
from lamella.runs.schema import RECORD_FORMAT, RecordChanges, RunRecord, RunRequest


class RunWriter:
    """A run directory that this process alone has open for writing. `start` and `reopen` make one.

    Attributes:
        path: the run directory.
        config: the resolved config.
        fields: the record, as `run.json` holds it.
        before: the record when the run was reopened, None for a new run.
        identity: what the checkpoints of the run carry.

    Each update replaces `run.json` as a whole, so that a reader never sees a part of it.
    """

    def __init__(self, path: Path, log: TextIO, fields: RunRecord, before: RunRecord | None, config: Config) -> None:
        self.path, self.fields, self.before, self.config = path, fields, before, config
        self._log, self._log_size = log, os.fstat(log.fileno()).st_size
        self._config_text = (path / "config.yaml").read_text("utf-8") if before else ""
        self.identity = run_identity(config, fields["reads"])
        self._opened = time.monotonic()

    @classmethod
    def start(cls, path: Path, config: Config, request: RunRequest, files: Mapping[str, str]) -> "RunWriter":
        """Create a run in the existing directory `path`, and delete what a start that failed has left there.

        config: the resolved config. files: the texts of further files by name. Raises RequestError
        where the directory cannot be written, contains other files or is open in another process.
        """
        leftovers = [entry for entry in path.iterdir() if entry.name != "log.txt"]
        foreign = [entry for entry in leftovers if entry.name not in RUN_FILES and not entry.name.startswith(".")]
        if path.is_symlink() or foreign:
            kept = foreign[0] if foreign else path
            raise RequestError(f"{kept} exists, but its directory has no run.json; move it away")
        try:
            log = _open_log(path)
            for entry in leftovers:
                entry.unlink()
            writer = cls(path, log, _new_record(request, path / "git.patch"), None, config)
            writer.configure(config)
            for name, text in files.items():
                write_atomically(path / name, text)
            writer.update()
        except OSError as error:
            shutil.rmtree(path, ignore_errors=True)
            raise RequestError(f"{path}: cannot write there ({error.strerror})") from error
        return writer

    @classmethod
    def reopen(cls, path: Path) -> "RunWriter":
        """Open the run in `path` to continue it. Raises RequestError where it is damaged or open in another process."""
        log = _open_log(path)
        fields, config = read_run(path)  # under the lock, so that no other process changes it any more
        if fields["status"] == "running":  # the process that had the run was killed
            fields["seconds"] = round(fields["seconds"] + unrecorded_seconds(path), 3)
        for pattern in (
            ".*.json.*",
            ".*.yaml.*",
            ".*.csv.*",
            ".*.tfevents.*",
            ".*.npz.*",
            "checkpoints/.*.ckpt*",
            f"checkpoints/{NEW}",
        ):
            for leftover in path.glob(pattern):
                if not leftover.is_dir():
                    leftover.unlink()
        return cls(path, log, fields, fields.copy(), config)

    def configure(self, config: Config) -> None:
        """Write `config.yaml`."""
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        write_atomically(self.path / "config.yaml", text)
        self.config, self.identity = config, run_identity(config, self.fields["reads"])

    def update(self, **changes: Unpack[RecordChanges]) -> None:
        """Change fields of the record and write `run.json`."""
        self.fields = {**self.fields, **changes}
        earlier = self.before["seconds"] if self.before else 0.0
        self.fields["seconds"] = round(earlier + time.monotonic() - self._opened, 3)
        self._write(self.fields)

    def epoch(self, line: Mapping[str, float], **changes: Unpack[RecordChanges]) -> None:
        """Add the line of an epoch to `metrics.jsonl`, and change fields of the record."""
        with open_to_append(self.path / METRICS) as file:
            file.write(json.dumps(line) + "\n")
        self.update(**changes)

    def close(self, **changes: Unpack[RecordChanges]) -> None:
        """Record that the run has ended, with its `status`: finished, failed (with `error`) or interrupted."""
        changes["finished"] = _now()
        self.update(**changes)

    def roll_back(self) -> None:
        """Undo what this writer has changed: delete a new run, and restore the files of a reopened one."""
        if self.before is None:
            shutil.rmtree(self.path, ignore_errors=True)
            return
        write_atomically(self.path / "config.yaml", self._config_text)
        os.truncate(self.path / "log.txt", self._log_size)
        self._write(self.before)

    @contextmanager
    def log(self) -> Iterator[TextIO]:
        """Copy what is printed to `log.txt` and yield that file. At the end, other processes may open the run."""
        try:
            with tolerant_output(self._log):
                yield self._log
        finally:
            with suppress(OSError):  # the disk may be full
                self._log.close()
            OPEN_RUNS.discard(self.path.resolve())

    def _write(self, fields: RunRecord) -> None:
        write_atomically(self.path / "run.json", json.dumps(fields, indent=2) + "\n")


@contextmanager
def reserved_run(path: Path) -> Iterator[None]:
    """Keep other processes from writing the run in `path` within the block. Raises RequestError where one does."""
    with _open_log(path):
        try:
            yield
        finally:
            OPEN_RUNS.discard(path.resolve())


def _new_record(request: RunRequest, patch: Path) -> RunRecord:
    """Return the record of a run that starts now, and write uncommitted changes of the code to `patch`."""
    return {
        "format": RECORD_FORMAT,
        "status": "running",
        **request,
        "epochs": 0,
        "steps": 0,
        "seconds": 0.0,
        "started": _now(),
        "finished": None,
        "metrics": {},
        "best_epoch": None,
        "stopped": None,
        "best_weights": None,
        "versions": installed_versions(),
        "git": git_state(patch),
        "error": None,
        "environment": {},
        "inexact": [],
        "usage": {},
        "compiled": None,
    }


def _open_log(path: Path) -> TextIO:
    """Open a run's `log.txt` and lock it, which reserves the run for this process until the file is closed.

    Raises RequestError where the file cannot be opened or another process has the lock.
    """
    try:
        log = open_to_append(path / "log.txt")
    except OSError as error:
        raise RequestError(f"{path}: cannot write there ({error.strerror})") from error
    try:
        _lock(log)
    except OSError as error:
        log.close()
        taken = error.errno in (errno.EAGAIN, errno.EACCES)
        problem = "another process is at work on this run" if taken else f"cannot be locked ({error.strerror})"
        raise RequestError(f"{path}: {problem}") from None
    OPEN_RUNS.add(path.resolve())
    return log


def _lock(log: TextIO) -> None:
    """Lock a file for writing. Raises OSError where another process has the lock.

    The lock ends with the process, however that ends. Unlike the lock of `flock`, it is not inherited by the workers
    of a data loader.
    """
    for wait in (0.01, 0.05, 0.0):  # a reader holds the lock for a moment, to see whether the run is being written
        try:
            fcntl.lockf(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError:
            if not wait:
                raise
            time.sleep(wait)


def _now() -> str:
    """Return the present time in UTC, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
