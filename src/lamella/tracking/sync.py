"""Send what trackers lack of a run."""

from pathlib import Path
from textwrap import shorten

from lamella.errors import RequestError, first_line
from lamella.tracking.ledger import read_sent, sending, write_sent
from lamella.tracking.snapshot import Snapshot
from lamella.tracking.trackers import Tracker


class TrackerError(Exception):
    """An error for a tracker that was not reached, or that has failed for a run. The text follows the tracker's name.

    reached: whether other runs may be tried at once.
    """

    def __init__(self, error: Exception) -> None:
        root: BaseException = error
        while root.__cause__ or root.__context__:
            root = root.__cause__ or root.__context__ or root
        self.reached = not isinstance(root, OSError)  # as the errors of the network are
        cause = shorten(first_line(error if self.reached else root), 200, placeholder="…")
        super().__init__(f"has failed ({cause})" if self.reached else f"was not reached ({cause})")


def sync_run(path: Path, tracker: Tracker) -> tuple[Snapshot, str]:
    """Send what a tracker lacks of the run in `path`, and return the run and a line that says what was sent.

    What the tracker has got then, or why the try has failed, is kept in `tracking.json`. Raises RequestError for what
    is not a run, and TrackerError where the tracker fails.
    """
    run = Snapshot.read(path)
    with sending(path):
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
    """Send what belongs to the sweep in `path` as a whole. Raises TrackerError where the tracker fails."""
    try:
        tracker.end_sweep(path)
    except RequestError:
        raise
    except Exception as error:
        raise TrackerError(error) from error
