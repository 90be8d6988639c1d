"""What a checkpoint says about the run that has saved it, so that a run goes on from its own checkpoints alone."""

from collections.abc import Mapping
from pathlib import Path

from lamella.config.values import Config, walk
from lamella.errors import RequestError

# The keys that may change when a run is resumed: how long it trains, where, and what makes no difference to the result.
CHANGEABLE_KEYS = (
    "trainer.max_epochs",
    "trainer.early_stopping",
    "trainer.checkpoint_every",
    "trainer.chunk",
    "device.accelerator",
    "device.threads",
    "device.graph",
    "data.root",
    "data.source.root",
    "data.path",
    "data.source.path",
    "data.paths",
    "data.source.paths",
    "data.in_memory",
    "data.cache",
    "data.num_workers",
)
# The parts of a config that do not change what is trained.
WITHOUT_EFFECT = ("name", "visuals", "tracking", "trainer.logger")

Identity = dict[str, str]  # the values of a config on which a result depends, as Python writes them, by key


def run_identity(config: Config, reads: Mapping[str, str]) -> Identity:
    """Return the values of a run's config that stay the same when the run is resumed, its seed among them.

    reads: as in the record of the run; a key that reads a changeable key may change too.
    """
    leaves = {key: repr(value) for key, value in walk(config) if not isinstance(value, dict | list)}
    return {key: value for key, value in leaves.items() if not _may_change(key, reads)}


def check_identity(checkpoint: Path, saved: Mapping[str, str], identity: Identity) -> None:
    """Raise RequestError where a checkpoint is not of the run with this identity.

    saved: the identity in the checkpoint, empty in one of an earlier version, which is accepted.
    """
    for key, value in identity.items():
        if (before := saved.get(key, value)) != value:
            raise RequestError(
                f"{checkpoint}: this is a checkpoint of another run, or config.yaml was edited: it was trained with "
                f"{key}={before},\n  and config.yaml has {key}={value}; put the right file back, or train a new run",
                key,
            )


def _may_change(key: str, reads: Mapping[str, str]) -> bool:
    """Return whether a key, or the key that it reads, may have another value when the run is resumed."""
    for reader, source in reads.items():
        if f"{key}.".startswith(f"{reader}."):
            others = {name: other for name, other in reads.items() if name != reader}
            return _may_change(source + key.removeprefix(reader), others)
    return key in CHANGEABLE_KEYS or f"{key}.".startswith(tuple(f"{part}." for part in WITHOUT_EFFECT))
