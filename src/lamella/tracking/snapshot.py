"""What trackers get of a run: everything is read from the directory of the run."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from lamella.config.values import Config, walk
from lamella.runs.files import BEST, EVENTS, METRICS
from lamella.runs.reader import check_entry, read_epochs, read_run
from lamella.runs.schema import RunRecord
from lamella.runs.sweep_directory import is_sweep
from lamella.tracking.ledger import read_key

# The files of a run that a tracker keeps as they are.
FILES = ("run.json", "config.yaml", METRICS, "log.txt", "git.patch")


@dataclass(frozen=True)
class Picture:
    """A picture of an epoch, as a PNG file. tag: its name in TensorBoard."""

    tag: str
    epoch: int
    content: bytes


@dataclass(frozen=True)
class Snapshot:
    """A run, as its directory holds it at one moment.

    path: the directory. fields: the record. config: resolved. epochs: the lines of `metrics.jsonl`.
    """

    path: Path
    fields: RunRecord
    config: Config
    epochs: list[dict[str, float]] = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> "Snapshot":
        """Read the run in `path`. Raises RequestError where there is none, or where it is damaged."""
        fields, config = read_run(path)
        return cls(path, fields, config, read_epochs(path))

    @property
    def key(self) -> str:
        """Return the id under which trackers know the run."""
        return read_key(self.path, f"{self.fields['started']} {self.path.name}")

    @property
    def state(self) -> str:
        """Return the state in which the run has ended, "" for a run that is being trained."""
        return state_of(self.fields)

    @property
    def sweep(self) -> Path | None:
        """Return the directory of the sweep that the run belongs to, None for a run by itself."""
        parent = self.path.absolute().parent
        return parent if is_sweep(parent) else None

    def settings(self) -> dict[str, object]:
        """Return the values of the config by their dotted keys, without the mappings and lists around them."""
        return {key: value for key, value in walk(self.config) if not isinstance(value, dict | list)}

    def results(self) -> dict[str, float]:
        """Return the metrics of the test, and those of the best epoch as `when_best/…`, which TensorBoard has too."""
        metrics = self.fields["metrics"]
        return {name if name.startswith("test/") else f"when_best/{name}": value for name, value in metrics.items()}

    def files(self, checkpoint: bool = False) -> list[Path]:
        """Return the files of the record that exist, and the best checkpoint if `checkpoint` is true."""
        paths = [self.path / name for name in FILES]
        paths += [self.path / "checkpoints" / BEST] if checkpoint else []
        return [path for path in paths if path.is_file()]

    def started(self) -> int:
        """Return when the run was started, in milliseconds since 1970."""
        return _milliseconds(self.fields["started"])

    def finished(self) -> int:
        """Return when the run has ended, in milliseconds since 1970; for a run that was killed, its last epoch."""
        finished = self.fields.get("finished")
        return _milliseconds(finished) if finished else (self.times() or [self.started()])[-1]

    def times(self) -> list[int]:
        """Return when each epoch ended, in milliseconds since 1970, as if the run had not been interrupted.

        The same epoch has the same time whenever this is called, so that a tracker knows what it has got already.
        """
        times, passed = [], 0.0
        for line in self.epochs:
            passed += line.get("seconds", 0.0)
            times.append(self.started() + round(passed * 1000))
        return times

    def pictures(self, after: int) -> Iterator[Picture]:
        """Yield the pictures in TensorBoard's event files of the epochs after `after`, up to the last one recorded."""
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader  # takes 0.2 s to import

        for file in sorted(self.path.glob(EVENTS)):
            check_entry(self.path, file)
            for event in EventFileLoader(str(file)).Load():
                for value in event.summary.value if after < event.step <= len(self.epochs) else ():
                    if value.metadata.plugin_data.plugin_name == "images":
                        # The first two strings are the width and the height.
                        for content in value.tensor.string_val[2:3]:
                            yield Picture(value.tag, event.step, content)


def state_of(fields: RunRecord) -> str:
    """Return a text for the state in which a run has ended, another one each time that it ends; "" while it trains."""
    if fields["status"] == "running":
        return ""
    return f"{fields['status']} after {fields['steps']} steps, {fields.get('finished')}"


def _milliseconds(time: str) -> int:
    """Return a time of a record, ISO 8601, in milliseconds since 1970."""
    return round(datetime.fromisoformat(time).timestamp() * 1000)
