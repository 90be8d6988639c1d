"""What tells a run from all others, so that it goes on from its own checkpoints alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamella.config.values import Config, walk
from lamella.errors import RequestError

# The keys that may change when a run is resumed: how long it trains, where, and what makes no difference to the result.
CHANGEABLE_KEYS = (
    "trainer.max_epochs",
    "trainer.checkpoint_every",
    "trainer.chunk",
    "device.accelerator",
    "device.threads",
    "device.graph",
    "data.root",
    "data.source.root",
    "data.in_memory",
    "data.cache",
    "data.num_workers",
)


@dataclass(frozen=True)
class RunIdentity:
    """The moment at which a run was started, and the values of its config that stay when it is resumed.

    started: as in its record. values: by key, as Python writes them.
    """

    started: str
    values: dict[str, str]

    @classmethod
    def of(cls, started: str, config: Config, reads: Mapping[str, str]) -> "RunIdentity":
        """Return the identity of a run. reads: as in its record; a key that reads a changeable key may change too."""
        leaves = {key: repr(value) for key, value in walk(config) if not isinstance(value, dict | list)}
        return cls(started, {key: value for key, value in leaves.items() if not _may_change(key, reads)})

    def check(self, checkpoint: Path, saved: Mapping[str, Any]) -> None:
        """Raise RequestError where a checkpoint is not of this run, or the config was changed after it was saved.

        saved: the fields of the identity in the checkpoint, empty in one of an earlier version, which is accepted.
        """
        values = saved.get("values", {})
        if saved.get("started", self.started) != self.started:
            raise RequestError(
                f"{checkpoint}: this is a checkpoint of another run, which was started at {saved['started']} with seed "
                f"{values.get('seed')};\n  delete it, or put the run's own one back"
            )
        for key, value in self.values.items():
            if (before := values.get(key, value)) != value:
                raise RequestError(
                    f"{key} is {value} in config.yaml, but {checkpoint} was trained with {before};\n"
                    f"  write {before} there again, or train a new run",
                    key,
                )


def _may_change(key: str, reads: Mapping[str, str]) -> bool:
    """Return whether a key, or the key that it reads, is one of CHANGEABLE_KEYS."""
    for reader, source in reads.items():
        if f"{key}.".startswith(f"{reader}."):
            others = {name: other for name, other in reads.items() if name != reader}
            return _may_change(source + key.removeprefix(reader), others)
    return key in CHANGEABLE_KEYS
