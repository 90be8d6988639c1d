"""A run that a sweep starts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamella.interrupts import SIGNALS

SIGNAL_STATUSES = tuple(128 + number for number in SIGNALS)  # exit statuses of a job that a signal has ended


@dataclass(frozen=True)
class Job:
    """A run that is to be begun or to go on in `path`, as its config says. label: what a person calls it."""

    path: Path
    config: Mapping[str, Any]
    label: str

    @property
    def epochs(self) -> int | None:
        """How many it is to train."""
        epochs: int | None = self.config["trainer"].get("max_epochs")
        return epochs


OnEnd = Callable[[Job, int], bool]
