"""The run directory: what a run was asked, what it did and what came out."""

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

from lamella import project, records
from lamella.errors import RequestError
from lamella.records import METRICS

OWN = ("run.json", "config.yaml", METRICS, "log.txt", "git.patch")
EVENTS = "events.out.tfevents.*"
PACKAGES = ("lamella", "torch", "torchvision", "pytorch-lightning", "hydra-core")


def settle(path: Path) -> dict[str, int]:
    """Bring the files of a run that grow while it trains to the disk; returns their sizes in bytes."""
    sizes = {}
    for file in (path / METRICS, *path.glob(EVENTS)):
        if file.exists():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
                sizes[file.name] = os.fstat(opened.fileno()).st_size
    return sizes


def cut_back(path: Path, kept: Mapping[str, int]) -> None:
    """Take what came later from the files of a run that grow: what is not in `kept`, and what is beyond its size."""
    for name, size in settle(path).items():
        if name not in kept:
            (path / name).unlink()
        elif size > kept[name]:
            os.truncate(path / name, kept[name])
    # TensorBoard reads its files in the order of their names, which begin with the second in which each was opened.
    while any(name.startswith(EVENTS.replace("*", str(int(time.time())))) for name in kept):
        time.sleep(0.01)


class Run:
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
        records.OPEN.add(path.resolve())
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
    def start(cls, path: Path, config: str, fields: Mapping[str, Any]) -> "Run":
        """A new run in the directory `path`, which is there: what a start that failed has left in it goes.

        Raises RequestError where it cannot be written, or something else is there.
        """
        left = [entry for entry in path.iterdir() if entry.name != "log.txt"]
        strange = [entry for entry in left if entry.name not in OWN and not entry.name.startswith(".")]
        if path.is_symlink() or strange:
            raise RequestError(f"{strange[0] if strange else path} is there without a run.json; put it elsewhere")
        try:
            run = cls(path)
            for entry in left:
                entry.unlink()
            run.configure(config)
            run.update(
                format=records.FORMAT,
                status="running",
                **fields,
                epochs=0,
                steps=0,
                seconds=0.0,
                started=_now(),
                finished=None,
                metrics={},
                best_epoch=None,
                versions=_versions(),
                git=_git(path / "git.patch"),
                error=None,
            )
        except OSError as error:
            shutil.rmtree(path, ignore_errors=True)
            raise RequestError(f"{path}: cannot write there ({error.strerror})") from error
        return run

    @classmethod
    def reopen(cls, path: Path) -> "Run":
        """The run in `path`, to go on with it. Raises RequestError."""
        run = cls(path)
        run.fields, _ = records.read(path)  # nobody else changes it any more
        run.before, run._config = dict(run.fields), (path / "config.yaml").read_text()
        for pattern in (".*.json.*", ".*.yaml.*", "checkpoints/.*.ckpt", "checkpoints/new.ckpt"):
            for leftover in path.glob(pattern):
                if not leftover.is_dir():
                    leftover.unlink()
        return run

    def configure(self, config: str) -> None:
        """Replace the config by one with which the run goes on."""
        write(self.path / "config.yaml", config)

    def update(self, **fields: Any) -> None:
        """Change some fields of the record."""
        self.fields |= fields
        seconds = self.before.get("seconds", 0.0) + time.monotonic() - self._opened
        self.fields["seconds"] = round(seconds, 3)
        write(self.path / "run.json", json.dumps(self.fields, indent=2) + "\n")

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
            write(self.path / "run.json", json.dumps(self.before, indent=2) + "\n")
        else:
            shutil.rmtree(self.path, ignore_errors=True)

    @contextmanager
    def log(self) -> Iterator[TextIO]:
        """Copy what is printed to `log.txt`, which is what `with` gives; in the end others may open the run."""
        try:
            with unheard(self._log):
                yield self._log
        finally:
            with suppress(OSError):  # the disk may be full
                self._log.close()
            records.OPEN.discard(self.path.resolve())


@contextmanager
def unheard(file: TextIO | None = None) -> Iterator[None]:
    """Within it, nothing ends because nobody reads along any more. file: gets a copy of what is printed."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Tee(stream, file) for stream in streams)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


class _Tee:
    """A stream that writes to a file as well, if there is one; for everything else it is the stream."""

    def __init__(self, stream: TextIO, file: TextIO | None) -> None:
        self._stream, self._file = stream, file

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        if self._file is not None:
            with suppress(OSError):  # the disk may be full: where it matters, that shows
                self._file.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def check_free(path: Path) -> None:
    """Raise RequestError where a result would take the place of what is no file, or of a file that a run lives by."""
    if path.exists() and not path.is_file():
        raise RequestError(f"--out {path}: this is no file")
    if path.name in OWN and (path.parent / "run.json").exists():
        raise RequestError(f"--out {path}: the run lives by this file; choose another name")


def write(path: Path, text: str) -> None:
    """Write a whole file or nothing: to a neighbour first, then renamed over it."""
    neighbour = path.with_name(f".{path.name}.{os.getpid()}")
    neighbour.unlink(missing_ok=True)  # it may be a link
    try:
        with neighbour.open("w", errors="surrogateescape") as file:  # names of files may be no text
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(neighbour, path)
    finally:
        neighbour.unlink(missing_ok=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _versions() -> dict[str, str]:
    return {"python": sys.version.split()[0]} | {name: version(name) for name in PACKAGES}


def _git(patch: Path) -> dict[str, Any] | None:
    """The commit of the working directory; uncommitted changes go to `patch`. None outside a repository."""

    def git(*arguments: str) -> bytes:
        # A repository may name a program to watch its files; nothing of it is called.
        return subprocess.run(["git", "-c", "core.fsmonitor=false", *arguments], capture_output=True, check=True).stdout

    if project.inside_a_run():
        return None

    try:
        commit = git("rev-parse", "HEAD").decode().strip()
        changes = git("diff", "--no-color", "--no-ext-diff", "--no-textconv", "--binary", "HEAD")
        dirty = bool(git("status", "--porcelain", "--untracked-files=normal"))
    except (OSError, subprocess.CalledProcessError):
        return None
    if changes:
        patch.write_bytes(changes)
    return {"commit": commit, "dirty": dirty}
