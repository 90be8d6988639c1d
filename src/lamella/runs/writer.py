"""The run directory: what a run was asked, what it did and what came out."""

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
from typing import Any, TextIO

from lamella.atomic_files import write_atomically
from lamella.console import tolerant_output
from lamella.errors import RequestError
from lamella.runs.files import METRICS, RUN_FILES
from lamella.runs.provenance import git_state, installed_versions
from lamella.runs.reader import OPEN, read_run
from lamella.runs.schema import RECORD_FORMAT


class RunWriter:
    """One run directory, open for writing by this process alone.

    Its `run.json` is replaced as a whole each time, so that a reader never sees half of one. Raises RequestError where
    another process has it open.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.fields = path, dict[str, Any]()
        try:
            self._log = (path / "log.txt").open("a", buffering=1)
        except OSError as error:
            raise RequestError(f"{path}: cannot write there ({error.strerror})") from error
        try:
            # Released when the process ends, however it does; and not inherited by a loader's workers, as flock's is.
            self._lock()
        except OSError as error:
            self._log.close()
            taken = error.errno in (errno.EAGAIN, errno.EACCES)
            problem = "another process is at work on this run" if taken else f"cannot be locked ({error.strerror})"
            raise RequestError(f"{path}: {problem}") from None
        OPEN.add(path.resolve())
        self._logged = os.fstat(self._log.fileno()).st_size
        self.before, self._config, self._opened = dict[str, Any](), "", time.monotonic()

    def _lock(self) -> None:
        for wait in (0.01, 0.05, 0.0):  # a reader looks, for a moment, whether it is locked
            try:
                fcntl.lockf(self._log, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError:
                if not wait:
                    raise
                time.sleep(wait)

    @classmethod
    def start(cls, path: Path, config: str, fields: Mapping[str, Any]) -> "RunWriter":
        """A new run in the directory `path`, which is there: what a start that failed has left in it goes.

        Raises RequestError where it cannot be written, or something else is there.
        """
        left = [entry for entry in path.iterdir() if entry.name != "log.txt"]
        strange = [entry for entry in left if entry.name not in RUN_FILES and not entry.name.startswith(".")]
        if path.is_symlink() or strange:
            raise RequestError(f"{strange[0] if strange else path} is there without a run.json; put it elsewhere")
        try:
            run = cls(path)
            for entry in left:
                entry.unlink()
            run.configure(config)
            run.update(
                format=RECORD_FORMAT,
                status="running",
                **fields,
                epochs=0,
                steps=0,
                seconds=0.0,
                started=_now(),
                finished=None,
                metrics={},
                best_epoch=None,
                versions=installed_versions(),
                git=git_state(path / "git.patch"),
                error=None,
            )
        except OSError as error:
            shutil.rmtree(path, ignore_errors=True)
            raise RequestError(f"{path}: cannot write there ({error.strerror})") from error
        return run

    @classmethod
    def reopen(cls, path: Path) -> "RunWriter":
        """The run in `path`, to go on with it. Raises RequestError."""
        run = cls(path)
        run.fields, _ = read_run(path)  # nobody else changes it any more
        run.before, run._config = dict(run.fields), (path / "config.yaml").read_text()
        for pattern in (".*.json.*", ".*.yaml.*", "checkpoints/.*.ckpt*", "checkpoints/new.ckpt"):
            for leftover in path.glob(pattern):
                if not leftover.is_dir():
                    leftover.unlink()
        return run

    def configure(self, config: str) -> None:
        """Replace the config by one with which the run goes on."""
        write_atomically(self.path / "config.yaml", config)

    def update(self, **fields: Any) -> None:
        """Change some fields of the record."""
        self.fields |= fields
        seconds = self.before.get("seconds", 0.0) + time.monotonic() - self._opened
        self.fields["seconds"] = round(seconds, 3)
        write_atomically(self.path / "run.json", json.dumps(self.fields, indent=2) + "\n")

    def epoch(self, line: Mapping[str, float], **fields: Any) -> None:
        """Add an epoch's line to `metrics.jsonl`, and change some fields of the record."""
        with (self.path / METRICS).open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.update(**fields)

    def close(self, status: str, **fields: Any) -> None:
        """Say how it ended: finished, failed (with `error`) or interrupted."""
        self.update(status=status, finished=_now(), **fields)

    def refuse(self) -> None:
        """Leave things as they were before: a new run goes, one that was there keeps its record and its config."""
        if self.before:
            self.configure(self._config)
            os.truncate(self.path / "log.txt", self._logged)
            write_atomically(self.path / "run.json", json.dumps(self.before, indent=2) + "\n")
        else:
            shutil.rmtree(self.path, ignore_errors=True)

    @contextmanager
    def log(self) -> Iterator[TextIO]:
        """Copy what is printed to `log.txt`, which is what `with` gives; in the end others may open the run."""
        try:
            with tolerant_output(self._log):
                yield self._log
        finally:
            with suppress(OSError):  # the disk may be full
                self._log.close()
            OPEN.discard(self.path.resolve())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
