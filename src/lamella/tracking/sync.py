"""Send what trackers lack of a run."""

import errno
import socket
import ssl
from pathlib import Path
from textwrap import shorten

from lamella.errors import first_line
from lamella.tracking.ledger import read_sent, sending, without_password, write_sent
from lamella.tracking.snapshot import Snapshot
from lamella.tracking.trackers import Tracker

# The errors of a network, each of which is an OSError, as those of files and disks are too.
NETWORK = (ConnectionError, TimeoutError, socket.gaierror, ssl.SSLError)
NO_ROUTE = {errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH}


class TrackerError(Exception):
    """An error for a tracker that was not reached, or that has failed for a run. The text follows the tracker's name.

    may_go_on: whether other runs may be tried at once, because the network has not failed.
    """

    def __init__(self, error: Exception) -> None:
        root: BaseException = error
        while root.__cause__ or root.__context__:
            root = root.__cause__ or root.__context__ or root
        self.may_go_on = not isinstance(root, NETWORK) and getattr(root, "errno", None) not in NO_ROUTE
        cause = without_password(first_line(error if self.may_go_on else root))
        what = "has failed" if self.may_go_on else "was not reached"
        super().__init__(f"{what} ({shorten(cause, 200, placeholder='…')})")


def sync_run(path: Path, tracker: Tracker) -> tuple[Snapshot, str]:
    """Send what a tracker lacks of the run in `path`, and return the run and a line that says what was sent.

    What the tracker has got then, or why the try has failed, is kept in `tracking.json`. Raises RequestError for what
    is not a run, and TrackerError where the tracker fails.
    """
    with sending(path):
        run = Snapshot.read(path)  # not before, as another process may send a later state in the meantime
        before = read_sent(path, tracker.name, tracker.server)
        try:
            sent = tracker.send(run, before)
        except Exception as error:  # each client raises errors of its own, and those of the network
            failure = TrackerError(error)
            if path.is_dir():
                write_sent(path, tracker.name, {**before, "error": str(failure)})
            raise failure from error
        if sent != before:
            write_sent(path, tracker.name, sent)
    new = sent["epochs"] - before["epochs"]
    what = f"{new} epoch{'s' * (new != 1)}" if new > 0 else "the result" if sent["state"] != before["state"] else ""
    return run, f"{what} to {sent['place']}" if what else f"nothing new for {sent['place']}"


def end_sweep(path: Path, tracker: Tracker) -> None:
    """Send what belongs to the sweep in `path` as a whole. Raises TrackerError where the sweep or the tracker fails.

    Why the last try has failed is kept in the `tracking.json` of the sweep.
    """
    try:
        tracker.end_sweep(path)
    except Exception as error:
        failure = TrackerError(error)
        _keep_error(path, tracker, str(failure))
        raise failure from error
    _keep_error(path, tracker, None)


def _keep_error(path: Path, tracker: Tracker, error: str | None) -> None:
    """Keep why a sweep was not sent, or that it was."""
    if path.is_dir():
        with sending(path):
            before = read_sent(path, tracker.name)
            if before["error"] != error:
                write_sent(path, tracker.name, {**before, "server": tracker.server, "error": error})
