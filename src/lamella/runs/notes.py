"""Notes and tags, which people add to runs and to sweeps beside their records: a line of `notes.jsonl` per change."""

import fcntl
import io
import json
import os
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NotRequired, TypedDict

from lamella.atomic_files import open_to_append, replacing, sync
from lamella.errors import RequestError, first_line
from lamella.runs.files import NOTES, NOTES_EVENTS
from lamella.runs.reader import parse_json, read_text


class Change(TypedDict):
    """A line of `notes.jsonl`. time: ISO 8601, UTC. note: a text that is added. add, remove: tags."""

    time: str
    note: NotRequired[str]
    add: NotRequired[list[str]]
    remove: NotRequired[list[str]]


@dataclass(frozen=True)
class Notes:
    """The notes and tags of a run or of a sweep.

    notes: the times and texts, the oldest first. tags: in the order in which they were added.
    """

    notes: list[tuple[datetime, str]] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, changes: Iterable[Change]) -> "Notes":
        """Return what a sequence of changes leads to."""
        found = cls()
        for change in changes:
            if "note" in change:
                found.notes.append((datetime.fromisoformat(change["time"]), change["note"]))
            found.tags[:] = [tag for tag in found.tags if tag not in change.get("remove", [])]
            found.tags.extend(tag for tag in change.get("add", []) if tag not in found.tags)
        return found

    def followed_by(self, others: "Notes") -> "Notes":
        """Return these notes and tags, and those of `others` after them."""
        tags = [tag for tag in others.tags if tag not in self.tags]
        return Notes([*self.notes, *others.notes], [*self.tags, *tags])

    @property
    def text(self) -> str | None:
        """Return the texts of all notes, one below the other, None where there are none."""
        return "\n".join(text for _, text in self.notes) or None

    def lines(self) -> list[str]:
        """Return what a person reads: the tags, and each note after its time in the time zone of this machine."""
        lines = [f"tags: {' '.join(self.tags)}"] if self.tags else []
        for time, text in self.notes:
            head = f"{time.astimezone():%Y-%m-%d %H:%M}  "
            lines.append(head + textwrap.indent(text, " " * len(head)).lstrip())
        return lines


def read_notes(path: Path) -> Notes:
    """Return the notes and tags of the run or the sweep in `path`. Raises RequestError where they are damaged."""
    return Notes.of(_read_changes(path))


def annotate(path: Path, note: str | None = None, add: Sequence[str] = (), remove: Sequence[str] = ()) -> Notes:
    """Add a note, and add and remove tags, for the run or the sweep in `path`, and return what it has then.

    Processes that do so at the same time wait for each other. A process that is killed leaves the whole change or none.
    The run itself never writes this file. Raises RequestError where the notes are damaged, and OSError where they
    cannot be written.
    """
    change: Change = {"time": datetime.now(UTC).isoformat(timespec="seconds")}
    if note is not None:
        change["note"] = note
    if add or remove:
        change |= {"add": list(add), "remove": list(remove)}
    with open_to_append(path / NOTES) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = _read_changes(path)
        os.truncate(file.fileno(), (path / NOTES).read_bytes().rfind(b"\n") + 1)  # a line that was not completed
        file.write(json.dumps(change) + "\n")
        file.flush()
        os.fsync(file.fileno())
        sync(path)
        changes = [*before, change]
        if (path / "run.json").exists():
            _write_events(path / NOTES_EVENTS, changes)
    return Notes.of(changes)


def _read_changes(path: Path) -> list[Change]:
    try:
        lines = read_text(path, NOTES).splitlines(keepends=True)
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise RequestError(f"{path / NOTES}: cannot be read ({first_line(error)})") from error
    changes = []
    for number, line in enumerate(lines, 1):
        if line.endswith("\n"):  # a line without its end was being written when the process was killed
            try:
                changes.append(_checked_change(parse_json(line)))
            except (ValueError, RecursionError) as error:
                raise RequestError(f"{path / NOTES} is damaged: line {number}: {first_line(error)}") from error
    return changes


def _checked_change(fields: object) -> Change:
    """Return the content of a line. Raises ValueError where a field is wrong."""
    if not isinstance(fields, dict) or not isinstance(fields.get("time"), str):
        raise ValueError("it has no time")
    change: Change = {"time": datetime.fromisoformat(fields["time"]).isoformat()}
    if "note" in fields:
        change["note"] = str(fields["note"])
    for name in ("add", "remove"):
        tags = fields.get(name, [])
        if not isinstance(tags, list):
            raise ValueError(f"{name} is {tags!r}, and no list")
        change[name] = list(map(str, tags))
    return change


def _write_events(path: Path, changes: Sequence[Change]) -> None:
    """Write an events file with the notes and tags as text for TensorBoard, or add to it what is new."""
    # These imports take longer than all else that the commands do.
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.plugins.text.summary_v2 import text_pb
    from tensorboard.summary.writer.record_writer import RecordWriter

    content = io.BytesIO()
    writer = RecordWriter(content)
    for step, change in enumerate(changes):
        time = datetime.fromisoformat(change["time"]).timestamp()
        if not step:
            writer.write(Event(wall_time=time, file_version="brain.Event:2").SerializeToString())
        name, text = "note", change.get("note")
        if text is None:
            name, text = "tags", " ".join(Notes.of(changes[: step + 1]).tags)
        summary = text_pb(name, text.encode("utf-8", "replace").decode())
        writer.write(Event(wall_time=time, step=step + 1, summary=summary).SerializeToString())
    written = path.read_bytes() if path.is_file() else b""
    if content.getvalue().startswith(written):  # TensorBoard has the file open, and reads what is added
        with open_to_append(path) as file:
            file.buffer.write(content.getvalue()[len(written) :])
    else:  # somebody has edited the notes
        with replacing(path) as temporary:
            temporary.write_bytes(content.getvalue())
