"""The directory of a sweep, in which the runs are planned before the first of them starts."""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Unpack, cast

from lamella.atomic_files import open_to_append, write_atomically
from lamella.config.values import Config, check_values
from lamella.errors import RequestError, first_line
from lamella.runs.reader import check_entry, parse_json, read_record, read_text
from lamella.runs.schema import SWEEP_FORMAT, RunRecord, SweepChanges, SweepRecord, wrong_field

RECORD, PLAN, LOCK = "sweep.json", "plan.jsonl", ".lock"
# What reading a damaged plan may raise.
DAMAGE_ERRORS = (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError)


@dataclass(frozen=True)
class Member:
    """One run of a sweep, as planned.

    name: of its directory. overrides: from the command line. config: resolved. reads, choices: as in the record of the
    run. trial: the number that a search has given it.
    """

    name: str
    overrides: list[str]
    config: Config
    reads: dict[str, str] = field(default_factory=dict)
    choices: dict[str, str] = field(default_factory=dict)
    trial: int | None = None


class Sweep:
    """A sweep's directory. Its `sweep.json` holds the request, and each line of its `plan.jsonl` one member.

    fields: the content of `sweep.json`. members: by name, in the order of the plan.
    """

    fields: SweepRecord

    def __init__(self, path: Path) -> None:
        """Read the sweep in `path`. Raises RequestError where there is none, or where it is damaged."""
        self.path, self.members = path, dict[str, Member]()
        try:
            self.fields = _checked_record(parse_json(read_text(path, RECORD)))
            lines = read_text(path, PLAN).splitlines(keepends=True) if (path / PLAN).exists() else []
            for line in lines:
                if line.endswith("\n"):  # a line without its end was being written when the process died
                    member = _member(line)
                    self.members[member.name] = member
        except RequestError:
            raise
        except DAMAGE_ERRORS as error:
            raise RequestError(f"{path}: its plan is damaged ({first_line(error)})") from error

    def update(self, **changes: Unpack[SweepChanges]) -> None:
        """Change fields of `sweep.json`."""
        self.fields = {**self.fields, **changes}
        write_atomically(self.path / RECORD, json.dumps(self.fields, indent=2) + "\n")

    def add(self, members: Sequence[Member]) -> None:
        """Add members to the plan, and return once they are on the disk."""
        file = self.path / PLAN
        if file.exists():
            content = file.read_bytes()
            os.truncate(file, content.rfind(b"\n") + 1)
        with open_to_append(file) as opened:
            opened.writelines(json.dumps(asdict(member)) + "\n" for member in members)
            opened.flush()
            os.fsync(opened.fileno())
        self.members |= {member.name: member for member in members}

    def record(self, name: str) -> RunRecord | None:
        """Return the record of a member, None where it has not started. Raises RequestError where it is damaged."""
        path = self.path / name
        return read_record(path) if (path / "run.json").exists() else None

    def status(self, name: str) -> str:
        """Return the status in the record of a member, or "planned" where the member has not started."""
        fields = self.record(name)
        return fields["status"] if fields else "planned"

    def unfinished(self) -> list[Member]:
        """Return the members that are still to be started, resumed or tried again."""
        return [member for name, member in self.members.items() if self.status(name) != "finished"]


def remove_if_empty(sweep: Sweep) -> None:
    """Delete the directory of a sweep that has no members, because nothing could be planned or was allowed."""
    if not sweep.members:
        shutil.rmtree(sweep.path, ignore_errors=True)
        with suppress(OSError):  # other sweeps and runs are there
            os.removedirs(sweep.path.parent)


def is_sweep(path: Path) -> bool:
    """Return whether `path` is the directory of a sweep."""
    return (path / RECORD).is_file()


def sweep_is_at_work(path: Path) -> bool:
    """Return whether a process has locked the sweep in `path`."""
    try:
        with (path / LOCK).open() as lock:
            fcntl.lockf(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EAGAIN, errno.EACCES)
    return False


def planned_member(path: Path) -> Member | None:
    """Return the member that a sweep has planned for the directory `path`, None where no sweep has planned one."""
    if not is_sweep(path.parent):
        return None
    start = json.dumps({"name": path.name}).rstrip("}") + ","
    try:
        lines = read_text(path.parent, PLAN).splitlines(keepends=True)
        # Parsing a thousand lines would take longer than starting one run.
        return next((_member(line) for line in lines if line.startswith(start) and line.endswith("\n")), None)
    except DAMAGE_ERRORS as error:
        raise RequestError(f"{path.parent}: its plan is damaged ({first_line(error)})") from error


@contextmanager
def open_sweep(path: Path, fields: SweepRecord | None = None) -> Iterator[Sweep]:
    """Lock the sweep in `path` and yield it; where there is none, create it with `fields` first.

    Raises RequestError where another process has the sweep, or the directory contains something else, also where a
    member or a file is a link that leads out of the sweep.
    """
    if not is_sweep(path) and path.exists() and any(not entry.name.startswith(".") for entry in path.iterdir()):
        raise RequestError(f"{path} exists and is not a sweep; choose another sweep.name", "sweep.name")
    try:
        path.mkdir(parents=True, exist_ok=True)
        for entry in path.iterdir():
            check_entry(path, entry, "sweep")
        lock = open_to_append(path / LOCK)
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
            write_atomically(path / RECORD, json.dumps(fields, indent=2) + "\n")
        yield Sweep(path)


def _checked_record(fields: object) -> SweepRecord:
    """Return the content of `sweep.json` as a record. Raises ValueError where its format or a field is wrong."""
    if not isinstance(fields, dict):
        raise ValueError(f"{RECORD} holds no mapping")
    if wrong := wrong_field(fields, SweepRecord):
        raise ValueError(f"{wrong} in {RECORD} is {fields.get(wrong)!r}")
    if fields["format"] != SWEEP_FORMAT:
        raise ValueError(f"it is of format {fields['format']}, and this lamella reads format {SWEEP_FORMAT}")
    if not {"space", "path"} <= fields.get("search", {"space": "", "path": ""}).keys():
        raise ValueError(f"search in {RECORD} is {fields['search']!r}")
    return cast(SweepRecord, fields)  # wrong_field has checked the type of every field


def _member(line: str) -> Member:
    """Return the member in a line of the plan. Raises one of DAMAGE_ERRORS where the line is damaged."""
    member = Member(**parse_json(line))
    check_values(member.config)
    if not member.name or "/" in member.name or member.name.startswith("."):
        raise ValueError(f"a member is called {member.name!r}")
    mappings = (member.config, member.config["device"], member.config["trainer"], member.reads, member.choices)
    if not all(isinstance(value, dict) for value in mappings) or not all(
        isinstance(text, str) for text in member.overrides
    ):
        raise ValueError(f"the fields of the member {member.name} have wrong types")
    return member
