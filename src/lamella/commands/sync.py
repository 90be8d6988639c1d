"""lamella sync RUN… --to TRACKER: send runs and sweeps to a tracker, without what it has got already.

lamella sync outputs/default/defaults --to csv
lamella sync outputs/default/* --to mlflow --url http://127.0.0.1:5000
lamella sync outputs/default/widths --to wandb --checkpoint
"""

import sys
from pathlib import Path
from typing import Any

from lamella.commands.parser import CommandParser
from lamella.console import print
from lamella.errors import RequestError
from lamella.runs.reader import read_run
from lamella.runs.sweep_directory import Sweep, is_sweep
from lamella.signatures import parameters
from lamella.tracking.sync import TrackerError, end_sweep, sync_run
from lamella.tracking.trackers import NAMED, TRACKERS, Tracker, make_tracker


def main(arguments: list[str]) -> int:
    """Send runs, print what was sent, and return the exit status: 1 where the tracker was not reached."""
    parser = CommandParser(__doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="the directory of a run or of a sweep")
    parser.add_argument("--to", metavar="|".join(TRACKERS), choices=TRACKERS, required=True, help="the tracker")
    parser.add_argument("--url", help="the address of an MLflow server; default: as in the run, or MLFLOW_TRACKING_URI")
    parser.add_argument("--checkpoint", action="store_true", help="send the best checkpoint too")
    options = parser.parse_args(arguments)
    given: dict[str, Any] = {"url": options.url} if options.url else {}
    given |= {"checkpoint": True} if options.checkpoint else {}
    if unknown := [key for key in given if key not in parameters(TRACKERS[options.to])]:
        raise RequestError(f"--{unknown[0]}: {options.to} takes no such option")
    trackers: dict[str, Tracker] = {}  # by their keys, so that a client is made once
    status = 0
    for path in options.runs:
        try:
            _send(path, options.to, given, trackers)
        except TrackerError as error:
            print(f"error: {path}: {options.to} {error}\n  the same command sends the rest later", file=sys.stderr)
            status = 1
            if not error.reached:
                break
    for tracker in trackers.values():
        tracker.close()
    return status


def _send(path: Path, name: str, given: dict[str, Any], trackers: dict[str, Tracker]) -> None:
    """Send a run, or the runs of a sweep that have started. Raises RequestError and TrackerError."""
    runs = [path]
    if sweep := Sweep(path) if is_sweep(path) else None:
        runs = [path / member for member in sweep.members if (path / member / "run.json").exists()]
    used = set[str]()
    for run in runs:
        keys = _keys(run, name) | given
        if str(keys) not in trackers:
            trackers[str(keys)] = make_tracker(name, keys)
        used.add(str(keys))
        print(f"{run}: {sync_run(run, trackers[str(keys)])[1]}")
    for key in used if sweep else ():
        end_sweep(path, trackers[key])


def _keys(run: Path, name: str) -> dict[str, Any]:
    """Return the keys of a tracker in the config of a run, or those with which a run without it is sent."""
    _, config = read_run(run)
    recorded = (config.get("tracking") or {}).get(name)
    if isinstance(recorded, dict):
        return recorded
    return {NAMED[name]: config["name"]} if name in NAMED else {}
