"""The run directory: what a run was asked, what it did and what came out."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import yaml

from lamella.errors import RequestError

LONGEST = 120  # bytes of a directory's name; file systems stop at 255
PACKAGES = ("lamella", "torch", "torchvision", "pytorch-lightning", "hydra-core")


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A run's record and its config. Raises RequestError where `path` is no run directory."""
    try:
        record = json.loads((path / "run.json").read_text())
        config = yaml.safe_load((path / "config.yaml").read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        problem = "holds no" if isinstance(error, FileNotFoundError) else "holds a damaged"
        file = Path(str(getattr(error, "filename", None) or "run.json or config.yaml")).name
        raise RequestError(f"{path} is no run directory: it {problem} {file}; `lamella train` makes one") from error
    return record, config


def slug(overrides: Sequence[str]) -> str:
    """A directory name for these overrides: legible, at most 120 bytes, and another one for other overrides.

    The order of the overrides does not matter. What had to be changed or cut is made unique by a hash; what is too
    long loses the first parts of its keys before it loses its end.
    """
    ordered = sorted(overrides)
    text = ",".join(ordered) or "defaults"
    name = _legible(text)
    if name == text and len(name) <= LONGEST and not name.startswith("."):
        return name
    if len(name) > LONGEST - 9:
        name = _legible(",".join(re.sub(r"^[\w.@/]*\.(?=\w+=)", "", override) for override in ordered))
    digest = hashlib.sha256("\0".join(ordered).encode()).hexdigest()[:8]
    return f"{name.lstrip('.')[: LONGEST - 9]}-{digest}"


def _legible(text: str) -> str:
    return re.sub(r"[^\w.,=+~@-]+", "-", text, flags=re.ASCII)


def check_name(name: Any) -> str:
    """`name`, if it can be that of a directory in `outputs/`. Raises RequestError."""
    if not isinstance(name, str) or name.startswith(".") or "/" in name or not name.strip():
        raise RequestError(f"name is {name!r}; it names a directory in outputs/, and takes a word", "name")
    return name


def claim(parent: Path, name: str) -> Path:
    """Make `parent/name`, or `parent/name_2` and so on where that exists: whoever made it owns it.

    Raises RequestError where it cannot be written.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            path = parent / (name if number == 1 else f"{name}_{number}")
            try:
                path.mkdir()
            except FileExistsError:
                number += 1
            else:
                return path
    except OSError as error:
        raise RequestError(f"{parent}: cannot write there ({error.strerror})", "outputs") from error


class Run:
    """One run directory, open for writing.

    Its `run.json` is replaced as a whole each time, so that a reader never sees half of one.
    """

    def __init__(self, path: Path, config: str, fields: Mapping[str, Any]) -> None:
        self.path = path
        self.fields: dict[str, Any] = {
            "status": "running",
            **fields,
            "epochs": 0,
            "steps": 0,
            "seconds": 0.0,
            "started": _now(),
            "finished": None,
            "metrics": {},
            "best_epoch": None,
            "versions": _versions(),
            "git": _git(path / "git.patch"),
            "error": None,
        }
        _write(path / "config.yaml", config)
        self.update()

    def update(self, **fields: Any) -> None:
        """Change some fields of the record."""
        self.fields |= fields
        started = datetime.fromisoformat(self.fields["started"])
        self.fields["seconds"] = round((datetime.now(UTC) - started).total_seconds(), 3)
        _write(self.path / "run.json", json.dumps(self.fields, indent=2) + "\n")

    def epoch(self, line: Mapping[str, float], **fields: Any) -> None:
        """Add an epoch's line to `metrics.jsonl`, and change some fields of the record."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.update(**fields)

    def close(self, status: str, **fields: Any) -> None:
        """Say how it ended: finished, failed (with `error`) or interrupted."""
        self.update(status=status, finished=_now(), **fields)

    def discard(self) -> None:
        """Remove a run that was refused before it trained."""
        shutil.rmtree(self.path, ignore_errors=True)

    @contextmanager
    def log(self) -> Iterator[TextIO]:
        """Copy what is printed to `log.txt`, which is what `with` gives."""
        with (self.path / "log.txt").open("a", buffering=1) as file:
            streams = sys.stdout, sys.stderr
            sys.stdout, sys.stderr = (_Tee(stream, file) for stream in streams)
            try:
                yield file
            finally:
                sys.stdout, sys.stderr = streams


class _Tee:
    """A stream that writes to a file as well; for everything else it is the stream."""

    def __init__(self, stream: TextIO, file: TextIO) -> None:
        self._stream, self._file = stream, file

    def write(self, text: str) -> int:
        # The run does not end because nobody reads along any more.
        with suppress(OSError):
            self._stream.write(text)
        return self._file.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _write(path: Path, text: str) -> None:
    """Write a whole file or nothing: to a neighbour first, then renamed over it."""
    neighbour = path.with_name(f".{path.name}.{os.getpid()}")
    with neighbour.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(neighbour, path)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _versions() -> dict[str, str]:
    return {"python": sys.version.split()[0]} | {name: version(name) for name in PACKAGES}


def _git(patch: Path) -> dict[str, Any] | None:
    """The commit of the working directory; uncommitted changes go to `patch`. None outside a repository."""

    def git(*arguments: str) -> bytes:
        return subprocess.run(["git", *arguments], capture_output=True, check=True).stdout

    try:
        commit = git("rev-parse", "HEAD").decode().strip()
        changes = git("diff", "--no-color", "--no-ext-diff", "--binary", "HEAD")
        dirty = bool(git("status", "--porcelain", "--untracked-files=normal"))
    except (OSError, subprocess.CalledProcessError):
        return None
    if changes:
        patch.write_bytes(changes)
    return {"commit": commit, "dirty": dirty}
