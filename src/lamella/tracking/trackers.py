"""The trackers by the names that a config has for them, and the checks of their keys."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from lamella.errors import RequestError, nearest
from lamella.signatures import check_call
from lamella.tracking.csv import CsvTracker
from lamella.tracking.ledger import Sent
from lamella.tracking.mlflow import MlflowTracker
from lamella.tracking.snapshot import Snapshot
from lamella.tracking.wandb import WandbTracker


class Tracker(Protocol):
    """A place that runs are mirrored to. name: in configs. package: that has to be installed. server: its address."""

    name: str
    package: str

    @property
    def server(self) -> str:
        """Return the address of the tracker, without a password."""

    def send(self, run: Snapshot, sent: Sent) -> Sent:
        """Send what the tracker lacks of a run, and return what it has got then. sent: what it has got before."""

    def end_sweep(self, path: Path) -> None:
        """Send what belongs to a sweep as a whole, after its runs."""

    def close(self) -> None:
        """Close the runs that are open."""


# Their arguments are the keys of the group `tracking`.
TRACKERS: Mapping[str, type[MlflowTracker | WandbTracker | CsvTracker]] = {
    "mlflow": MlflowTracker,
    "wandb": WandbTracker,
    "csv": CsvTracker,
}


# The key that has the name of a run where the config of the run does not name the tracker.
NAMED = {"mlflow": "experiment", "wandb": "project"}


def check_trackers(node: Mapping[str, object]) -> None:
    """Raise RequestError for a tracker, a key or a value in the group `tracking` that cannot be used.

    No library of a tracker is imported and nothing is sent.
    """
    for name, keys in node.items():
        make_tracker(name, keys)


def make_tracker(name: str, keys: object) -> Tracker:
    """Return the tracker that the group `tracking` calls `name`, with its keys there. Raises RequestError."""
    place = f"tracking.{name}"
    if name not in TRACKERS:
        raise RequestError(f"{place}: there is no such tracker; {nearest(name, TRACKERS)}", place)
    if not isinstance(keys, Mapping):
        raise RequestError(f"{place} is {keys!r}; it takes a mapping", place)
    made: Any = TRACKERS[name]
    check_call(made, keys, place=place, title=f"tracking={name}")
    if find_spec(made.package) is None:
        raise RequestError(f"tracking={name} needs {made.package}: pip install 'lamella[{name}]'", place)
    tracker: Tracker = made(**keys)
    return tracker
