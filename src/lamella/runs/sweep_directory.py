"""The directory of a sweep: what is to be trained is written down before the first of it starts."""

import errno
import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lamella.atomic_files import write_atomically
from lamella.config.values import check_values
from lamella.errors import RequestError, first_line
from lamella.runs.reader import read_record, read_text

SWEEP_FORMAT = 1  # of sweep.json and plan.jsonl
RECORD, PLAN, LOCK = "sweep.json", "plan.jsonl", ".lock"
# What sweep.json holds.
SWEEP_KINDS: dict[str, Any] = {
    "format": int,
    "arguments": list,
    "launcher": dict,
    "monitor": str,
    "metric": str,
    "objectives": list,
    "swept": list,
    "threads": (int, type(None)),
    "max_failures": (int, type(None)),
}


@dataclass(frozen=True)
class Member:
    """One run of a sweep: its directory's name, what the command line set, and its config, resolved.

    reads, choices: what its record will say of the config. trial: the number that a search gave it.
    """

    name: str
    overrides: list[str]
    config: dict[str, Any]
    reads: dict[str, str] = field(default_factory=dict)
    choices: dict[str, str] = field(default_factory=dict)
    trial: int | None = None


class Sweep:
    """A sweep's directory: `sweep.json` says what was asked, a line of `plan.jsonl` what each member is.

    fields: what `sweep.json` holds. members: by name, in the order of the plan.
    """

    def __init__(self, path: Path) -> None:
        """Raises RequestError where there is no sweep in `path`, or it is damaged."""
        self.path, self.fields, self.members = path, dict[str, Any](), dict[str, Member]()
        try:
            self.fields = json.loads(read_text(path, RECORD))
            lines = read_text(path, PLAN).splitlines(keepends=True) if (path / PLAN).exists() else []
            self._fill(lines)
        except RequestError:
            raise
        except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            raise RequestError(f"{path}: its plan is damaged ({first_line(error)})") from error

    def _fill(self, lines: Sequence[str]) -> None:
        for name, kind in SWEEP_KINDS.items():
            if not isinstance(self.fields.get(name), kind):
                raise ValueError(f"{name} in {RECORD} is {self.fields.get(name)!r}")
        if self.fields["format"] != SWEEP_FORMAT:
            raise ValueError(f"it is of format {self.fields['format']}, and this lamella reads format {SWEEP_FORMAT}")
        for name in ("arguments", "swept", "objectives"):
            if not all(isinstance(text, str) for text in self.fields[name]):
                raise ValueError(f"{name} in {RECORD} is {self.fields[name]!r}")
        pruned, search = self.fields.get("pruned", []), self.fields.get("search", {"space": "", "path": ""})
        if not isinstance(pruned, list) or not all(isinstance(search[name], str) for name in ("space", "path")):
            raise ValueError(f"search and pruned in {RECORD} are {search!r} and {pruned!r}")
        for line in lines:
            if line.endswith("\n"):  # what has no end was being written when its writer died
                member = _member(line)
                self.members[member.name] = member

    def update(self, **fields: Any) -> None:
        """Change some fields of `sweep.json`."""
        self.fields |= fields
        write_atomically(self.path / RECORD, json.dumps(self.fields, indent=2) + "\n")

    def add(self, members: Sequence[Member]) -> None:
        """Write members into the plan; when this returns, they are on the disk."""
        file = self.path / PLAN
        if file.exists():
            whole = file.read_bytes()
            os.truncate(file, whole.rfind(b"\n") + 1)
        with file.open("a") as opened:
            opened.writelines(json.dumps(asdict(member)) + "\n" for member in members)
            opened.flush()
            os.fsync(opened.fileno())
        self.members |= {member.name: member for member in members}

    def record(self, name: str) -> dict[str, Any] | None:
        """What a member's record says; None where it has none yet. Raises RequestError where that is damaged."""
        path = self.path / name
        return read_record(path) if (path / "run.json").exists() else None

    def status(self, name: str) -> str:
        """How far a member is: planned, or what its record says."""
        fields = self.record(name)
        return fields["status"] if fields else "planned"

    def unfinished(self) -> list[Member]:
        """The members that are to be begun, to go on, or to be tried again."""
        return [member for name, member in self.members.items() if self.status(name) != "finished"]


def is_sweep(path: Path) -> bool:
    return (path / RECORD).is_file()


def planned_member(path: Path) -> Member | None:
    """The member of a sweep that a directory is to become, or is; None where no sweep has planned it."""
    if not is_sweep(path.parent):
        return None
    start = json.dumps({"name": path.name}).rstrip("}") + ","
    try:
        lines = read_text(path.parent, PLAN).splitlines(keepends=True)
        # Of a thousand, reading all of them would take longer than to begin one.
        return next((_member(line) for line in lines if line.startswith(start) and line.endswith("\n")), None)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise RequestError(f"{path.parent}: its plan is damaged ({first_line(error)})") from error


def _member(line: str) -> Member:
    """Raises ValueError, TypeError and AttributeError where a line of the plan is damaged."""
    member = Member(**json.loads(line))
    check_values(member.config)
    if not member.name or "/" in member.name or member.name.startswith("."):
        raise ValueError(f"a member is called {member.name!r}")
    mappings = (member.config, member.config["device"], member.config["trainer"], member.reads, member.choices)
    if not all(isinstance(one, dict) for one in mappings) or not all(isinstance(one, str) for one in member.overrides):
        raise ValueError(f"the member {member.name} is none")
    return member


@contextmanager
def open_sweep(path: Path, fields: dict[str, Any] | None = None) -> Iterator[Sweep]:
    """The sweep in `path`, which nobody else has as long as this lasts; made with `fields` where there is none.

    Raises RequestError where somebody else has it, or something else is there.
    """
    if not is_sweep(path) and path.exists() and any(not entry.name.startswith(".") for entry in path.iterdir()):
        raise RequestError(f"{path} is there, and is no sweep of this kind; choose another sweep.name", "sweep.name")
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / LOCK).open("a")
    except OSError as error:
        raise RequestError(f"{path}: cannot write there ({error.strerror})", "outputs") from error
    with lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            taken = error.errno in (errno.EAGAIN, errno.EACCES)
            problem = "another process is at work on this sweep" if taken else f"cannot be locked ({error.strerror})"
            raise RequestError(f"{path}: {problem}") from None
        if not is_sweep(path) and fields is not None:
            write_atomically(path / RECORD, json.dumps({"format": SWEEP_FORMAT, **fields}, indent=2) + "\n")
        yield Sweep(path)
