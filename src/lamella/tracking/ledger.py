"""What trackers have got of a run or of a sweep: the file `tracking.json` in its directory."""

import fcntl
import hashlib
import json
import os
import re
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypedDict

from lamella.atomic_files import write_atomically
from lamella.console import print
from lamella.runs.files import LEDGER
from lamella.runs.reader import parse_json, read_text


class Sent(TypedDict):
    """What a tracker has got of a run.

    server: the tracker's address. place: where the run is shown. epochs: how many were sent. state: of the run when it
    was sent, as `Snapshot.state`. error: what has become of the last try if it has failed, as `TrackerError` says it.
    """

    server: str
    place: str
    epochs: int
    state: str
    error: str | None


def read_key(path: Path, origin: str | None = None) -> str:
    """Return the id under which trackers know the run or the sweep in `path`, and choose one where it has none.

    origin: a text from which the id is made, None for one at random. The id is kept before anything is sent, so that
    nothing is sent under two of them.
    """
    content = _read(path)
    key = content.get("key")
    if isinstance(key, str) and re.fullmatch(r"[0-9a-f]{16}", key):
        return key
    key = hashlib.sha256(origin.encode()).hexdigest()[:16] if origin else uuid.uuid4().hex[:16]
    _write(path, {**content, "key": key})
    return key


def read_sent(path: Path, tracker: str, server: str | None = None) -> Sent:
    """Return what a tracker has got of the run in `path`, nothing where the file is damaged or of another `server`."""
    entry: Any = _read(path).get(tracker)
    with suppress(KeyError, TypeError, ValueError):  # there is none, or the file was edited
        if server in (None, entry["server"]):
            return Sent(
                server=str(entry["server"]),
                place=str(entry["place"]),
                epochs=max(0, int(entry["epochs"])),
                state=str(entry["state"]),
                error=None if entry["error"] is None else str(entry["error"]),
            )
    return Sent(server=server or "", place="", epochs=0, state="", error=None)


def write_sent(path: Path, tracker: str, sent: Sent) -> None:
    """Keep what a tracker has got of the run in `path`."""
    _write(path, {**_read(path), tracker: sent})


@contextmanager
def sending(path: Path) -> Iterator[None]:
    """Wait until no other process sends what is in the directory `path`, and keep others from it within the block.

    A line on standard error says that it waits.
    """
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # a network file system may have no locks for directories
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"{path}: waiting for another process that sends it to a tracker", file=sys.stderr)
                fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def without_password(text: str) -> str:
    """Return a text without the names of users and the passwords in its addresses."""
    return re.sub(r"//[^/\s]*@", "//", text)


def _read(path: Path) -> dict[str, Any]:
    """Return the content of the file, nothing where there is none or where it is damaged."""
    try:
        content = parse_json(read_text(path, LEDGER))
    except (OSError, ValueError, RecursionError):  # RequestError, too, is a ValueError
        return {}
    return content if isinstance(content, dict) else {}


def _write(path: Path, content: dict[str, object]) -> None:
    write_atomically(path / LEDGER, json.dumps(content, indent=2) + "\n")
