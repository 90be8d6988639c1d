"""Define a job: a run that a sweep starts or resumes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lamella.config.values import Config
from lamella.interrupts import SIGNALS

SIGNAL_STATUSES = tuple(128 + number for number in SIGNALS)  # exit statuses of a job that a signal has ended


# A remark in the record of a run that is trained together with others, whose bits may differ from those of a run alone.
FUSED_NOTE = "others of its sweep as one program"


@dataclass(frozen=True)
class Job:
    """A run to start or to resume in the directory `path`.

    label: the name that is printed for the job. fused: whether the job is trained as a member of a fused group, which
    may have no other member left.
    """

    path: Path
    config: Config
    label: str
    fused: bool = False

    @property
    def epochs(self) -> int | None:
        """Return the number of epochs to train, None where the config gives none."""
        epochs: int | None = self.config["trainer"].get("max_epochs")
        return epochs


# A launcher calls this function with a job that has ended and its exit status. If it returns False, no more jobs start.
OnEnd = Callable[[Job, int], bool]
