"""lamella sync RUN… --to TRACKER: send runs and sweeps to a tracker, without what it has got already.

lamella sync outputs/default/defaults --to csv
lamella sync outputs/default/* --to mlflow --url http://127.0.0.1:5000
lamella sync outputs/default/widths --to wandb --checkpoint
"""

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from lamella.commands.parser import CommandParser
from lamella.commands.several_runs import runs_among
from lamella.console import print, print_error
from lamella.errors import RequestError
from lamella.runs.reader import read_run
from lamella.runs.sweep_directory import is_sweep
from lamella.signatures import parameters
from lamella.tracking.mlflow import MlflowTracker
from lamella.tracking.sync import TrackerError, end_sweep, sync_run
from lamella.tracking.trackers import NAMED, TRACKERS, Tracker, make_tracker


def main(arguments: list[str]) -> int:
    """Send runs, print what was sent, and return the exit status: 1 where a tracker has failed, 2 for a damaged run."""
    parser = CommandParser(__doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="the directory of a run or of a sweep")
    parser.add_argument("--to", metavar="|".join(TRACKERS), choices=TRACKERS, required=True, help="the tracker")
    parser.add_argument("--url", help="the address of an MLflow server; default: as in the run, or MLFLOW_TRACKING_URI")
    parser.add_argument("--checkpoint", action="store_true", help="send the best checkpoint too")
    options = parser.parse_args(arguments)
    given: dict[str, Any] = {} if options.url is None else {"url": options.url}
    given |= {"checkpoint": True} if options.checkpoint else {}
    if unknown := [key for key in given if key not in parameters(TRACKERS[options.to])]:
        raise RequestError(f"--{unknown[0]}: {options.to} takes no such option")
    sender, errors, status = _Sender(options.to, given), set[str](), 0
    try:
        for path in _with_members(runs_among(options.runs, sweeps=True)):
            try:
                sender.send(path)
            except RequestError as error:
                if str(error) not in errors:  # several runs may have the same one, such as a missing package
                    print_error(error)
                errors.add(str(error))
                status = 2
            except TrackerError as error:
                print(f"error: {path}: {options.to} {error}\n  the same command sends the rest later", file=sys.stderr)
                status = max(status, 1)
                if not error.may_go_on:
                    break
    finally:
        sender.close()
    return status


class _Sender:
    """Sends runs and sweeps to the tracker `name`. given: the keys that replace those in the config of a run."""

    def __init__(self, name: str, given: dict[str, Any]) -> None:
        self.name, self.given = name, given
        self.trackers: dict[str, Tracker] = {}  # by their keys, so that a client is made once
        self.used: dict[Path, set[str]] = {}  # the keys for the runs of each directory

    def send(self, path: Path) -> None:
        """Send a run, or what belongs to a sweep whose runs were sent. Raises RequestError and TrackerError."""
        if is_sweep(path):
            for key in self.used.get(path, ()):
                end_sweep(path, self.trackers[key])
            return
        keys = _keys(path, self.name) | self.given
        key = str(keys)
        if key not in self.trackers:
            self.trackers[key] = tracker = make_tracker(self.name, keys)
            if isinstance(tracker, MlflowTracker) and "url" in self.given:
                tracker.trusted = True  # the user has named the server, and no record
        self.used.setdefault(path.parent, set()).add(key)
        print(f"{path}: {sync_run(path, self.trackers[key])[1]}")

    def close(self) -> None:
        """Close the trackers."""
        for tracker in self.trackers.values():
            with suppress(Exception):  # nothing is left to be done about it
                tracker.close()


def _with_members(paths: list[Path]) -> Iterator[Path]:
    """Yield the directories of runs and sweeps, and before each sweep those of its runs that have started."""
    for path in paths:
        if is_sweep(path):
            yield from (record.parent for record in sorted(path.glob("*/run.json")) if not record.parent.is_symlink())
        yield path


def _keys(run: Path, name: str) -> dict[str, Any]:
    """Return the keys of a tracker in the config of a run, or those with which a run without it is sent."""
    _, config = read_run(run)
    recorded = (config.get("tracking") or {}).get(name)
    if isinstance(recorded, dict):
        return recorded
    return {NAMED[name]: config["name"]} if name in NAMED else {}
