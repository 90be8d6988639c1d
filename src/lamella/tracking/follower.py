"""Follow a run or a sweep while it is trained, and send what is new: the program of a process of its own.

python -m lamella.tracking.follower DIRECTORY

The process that trains starts this one, and holds the other end of its standard input. When that is closed, by the end
of the training or by the end of the process, however it ended, this process sends the rest and ends.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from lamella.errors import RequestError
from lamella.runs.reader import is_being_written
from lamella.runs.sweep_directory import is_sweep
from lamella.tracking.snapshot import Snapshot
from lamella.tracking.sync import TrackerError, end_sweep, sync_run
from lamella.tracking.trackers import Tracker, make_tracker

POLL = 1.0  # seconds between two looks at the records
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 60.0  # seconds after which a tracker that has failed is tried again
LIMIT = 600.0  # seconds after the end of the training in which everything has to be sent
NICE = 5  # how much lower than that of the training the priority is


class Follower:
    """Sends the runs of a directory, that of one run or of a sweep, to the trackers that their configs name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sent: dict[Path, int] = {}  # when run.json was written that was sent last, in nanoseconds
        self.ended = set[Path]()  # the runs that had ended when they were sent
        self.trackers: dict[str, Tracker] = {}  # by their keys in a config
        # Until when a tracker that has failed is left alone and how long, by its keys: for one run or, if it was not
        # reached, for all.
        self.pauses: dict[tuple[Path | None, str], tuple[float, float]] = {}

    def look(self, last: bool = False) -> None:
        """Send what is new of every run. last: send also what was not sent because a run was killed."""
        failed = set[str]()
        for path in self._runs():
            with suppress(RequestError, OSError):  # the run was moved, deleted or damaged
                written = (path / "run.json").stat().st_mtime_ns
                is_new = self.sent.get(path) != written
                if is_new or (last and path not in self.ended):
                    self._send(path, written, failed, last)
        if last:
            for name, tracker in self.trackers.items():
                if is_sweep(self.path) and name not in failed:
                    with suppress(OSError, TrackerError):  # the sweep was moved or deleted, or its ledger has the error
                        end_sweep(self.path, tracker)
                with suppress(Exception):  # nothing is left to be done about it
                    tracker.close()

    def _runs(self) -> Iterator[Path]:
        """Yield the directories of the runs that have started."""
        # The plan of a large sweep would take too long to read at each look.
        records = self.path.glob("*/run.json") if is_sweep(self.path) else [self.path / "run.json"]
        yield from (record.parent for record in sorted(records) if not record.parent.is_symlink())

    def _send(self, path: Path, written: int, failed: set[str], last: bool) -> None:
        """Send a run to its trackers. failed: those that were not reached in this look."""
        run, complete = Snapshot.read(path), True
        for name, keys in (run.config.get("tracking") or {}).items():
            key = json.dumps([name, keys])
            until = max(self.pauses.get((one, key), (0.0, 0.0))[0] for one in (path, None))
            if key in failed or (time.monotonic() < until and not last):
                complete = False
                continue
            try:
                if key not in self.trackers:
                    self.trackers[key] = make_tracker(name, keys)
                run, _ = sync_run(path, self.trackers[key])
            except TrackerError as error:
                complete = False
                if not error.may_go_on:
                    failed.add(key)
                paused = (path if error.may_go_on else None), key
                pause = min(LONGEST_PAUSE, 2 * self.pauses.get(paused, (0.0, FIRST_PAUSE / 2))[1])
                self.pauses[paused] = time.monotonic() + pause, pause
            else:
                for one in (path, None):
                    self.pauses.pop((one, key), None)
        if complete:
            self.sent[path] = written
            (self.ended.add if run.state else self.ended.discard)(path)


def main() -> None:
    """Follow the directory that the command line names until its training has ended."""
    os.nice(NICE)
    path, over = Path(sys.argv[1]), threading.Event()

    def wait() -> None:
        while os.read(0, 1):
            pass
        over.set()
        time.sleep(LIMIT)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
    follower = Follower(path)
    while True:
        last = over.is_set() or not path.is_dir() or not (is_sweep(path) or is_being_written(path))
        follower.look(last)
        if last:
            break
        over.wait(POLL)


if __name__ == "__main__":
    main()
