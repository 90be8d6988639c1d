"""Start the process that mirrors a run or a sweep, and print at the end what became of it."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from lamella.console import print
from lamella.errors import RequestError
from lamella.runs.reader import read_record
from lamella.tracking.ledger import Sent, read_sent
from lamella.tracking.snapshot import state_of

FOLLOWED = "LAMELLA_FOLLOWED"  # the environment variable with the sweep whose runs are mirrored by a process already
PATIENCE = 10.0  # seconds that a command waits at its end for what is still being sent

Tracked = Mapping[Path, Collection[str]]  # the names of the trackers of each run


@contextmanager
def following(path: Path, tracked: Callable[[], Tracked], is_sweep: bool = False) -> Iterator[None]:
    """Mirror what is trained within the block by a process of its own, and print at the end what became of it.

    path: the directory of a run or of a sweep. tracked: returns the runs and their trackers, at the end also those that
    a search has added.

    The process has a session of its own, so that Ctrl-C does not reach it, and a low priority. It ends soon after the
    block, and also when this process dies. For a run whose sweep is mirrored, no process is started.
    """
    place = path.absolute()
    if not any(tracked().values()) or os.environ.get(FOLLOWED) == str(place.parent):
        yield
        return
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "lamella.tracking.follower", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    if is_sweep:
        os.environ[FOLLOWED] = str(place)  # which the processes of the runs inherit
    try:
        yield
    finally:
        if is_sweep:
            del os.environ[FOLLOWED]
        assert process.stdin
        process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
        threading.Thread(target=process.wait, daemon=True).start()  # for a process that goes on
        _report(path, tracked(), sending=process.poll() is None)


def _report(path: Path, tracked: Tracked, sending: bool) -> None:
    """Print for each tracker where the runs are shown, or that it lacks something and how that is sent later.

    sending: whether the process is still at work.
    """
    for name in dict.fromkeys(name for names in tracked.values() for name in names):
        found = [_sent(run, name) for run, names in tracked.items() if name in names and (run / "run.json").exists()]
        missing = [sent for sent, complete in found if not complete]
        if path not in tracked and (whole := read_sent(path, name))["error"]:  # what belongs to the sweep as a whole
            missing.append(whole)
        error = next((sent["error"] for sent in missing if sent["error"]), None)
        later = f"lamella sync {path} --to {name}"
        if not found:  # nothing was trained
            continue
        if not missing:
            places = [sent["place"] for sent, _ in found]
            print(f"{'tracking':<12}{name}: {places[0] if len(places) == 1 else f'{len(places)} runs'}")
        elif sending:
            print(f"tracking: the rest for {name} is sent in the background; if that fails: {later}", file=sys.stderr)
        else:
            print(f"tracking: {name} {error or 'has not got everything'}; {later} sends the rest", file=sys.stderr)


def _sent(run: Path, name: str) -> tuple[Sent, bool]:
    """Return what a tracker has got of a run, and whether that is everything."""
    sent = read_sent(run, name)
    try:
        return sent, sent["state"] == state_of(read_record(run))
    except RequestError:  # the record is damaged
        return sent, False
