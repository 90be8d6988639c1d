"""Runs as rows: found below a directory, filtered and sorted by any key of their records and configs."""

import math
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lamella.config.file_keys import LOADER
from lamella.config.value_text import parse_value
from lamella.config.values import Config, check_values, override_values, walk
from lamella.errors import RequestError, nearest, nearest_keys
from lamella.runs.notes import Notes, read_notes
from lamella.runs.query import parse_condition, sort_key
from lamella.runs.ranking import larger_is_better
from lamella.runs.reader import read_epochs, read_record, read_text
from lamella.runs.schema import RunRecord

if TYPE_CHECKING:
    import pandas

    from lamella import Model


@dataclass(frozen=True)
class Record:
    """One run, with its record, metrics and config readable by key.

    `record["val/accuracy"]` is a metric, `record["status"]` a field of the record, and `record["optimizer.lr"]` a value
    of the config.

    path: the run directory. fields: the content of `run.json`.
    """

    path: Path
    fields: RunRecord

    def __getitem__(self, key: str) -> Any:
        """Return the value of a key of the record, the metrics or the config. Raises KeyError where no such key is."""
        if key in OWN_KEYS:
            return OWN_KEYS[key](self)
        fields: Mapping[str, object] = self.fields
        for values in (fields, self.fields["metrics"], self.settings, self.fields["choices"]):
            if key in values:
                return values[key]
        first, *rest = key.split(".")
        node = fields[first] if first in fields else self._group(first)
        for part in rest:
            if isinstance(node, list) and part.isdigit() and int(part) < len(node):
                node = node[int(part)]
            elif isinstance(node, dict) and part in node:
                node = node[part]
            else:
                raise KeyError(key)
        return node

    def get(self, key: str, default: object = None) -> Any:
        """Return the value of `key`, or `default` where the run has no such key."""
        try:
            return self[key]
        except KeyError:
            return default

    @cached_property
    def settings(self) -> dict[str, object]:
        """Return the values that overrides on the command line have set. Lists and mappings are left to the config."""
        texts = override_values(self.fields["overrides"])
        return {key: parse_value(text) for key, text in texts.items() if re.fullmatch(r"[\w.+/-]+", text)}

    @cached_property
    def config(self) -> Config:
        """Return the content of `config.yaml`, empty where the file is damaged."""
        try:
            config: object = yaml.load(self._text, LOADER)
            check_values(config)
        except (yaml.YAMLError, ValueError, RecursionError):
            config = None
        return config if isinstance(config, dict) else {}

    @cached_property
    def notes(self) -> Notes:
        """Return the notes and tags of the run and of its sweep, none where they are damaged, with a warning."""
        try:
            return read_notes(self.path.parent).followed_by(read_notes(self.path))
        except RequestError as error:
            warnings.warn(str(error), stacklevel=2)
            return Notes()

    @property
    def metrics(self) -> dict[str, float]:
        """Return the metrics of the best epoch, and those of the test, as `metrics["val/accuracy"]`."""
        return self.fields["metrics"]

    @property
    def history(self) -> "pandas.DataFrame":
        """Return a table with a row for each epoch. Raises RequestError, also where pandas is not installed."""
        return _table(read_epochs(self.path))

    @property
    def model(self) -> "Model":
        """Return the trained network of the best epoch, as `lamella.load` does. Raises RequestError."""
        import lamella

        return lamella.load(self.path)

    @property
    def age(self) -> float:
        """Return the seconds since the run was started, NaN where the record has no valid time."""
        try:
            return (datetime.now(UTC) - datetime.fromisoformat(self.fields["started"])).total_seconds()
        except (ValueError, TypeError):
            return float("nan")

    def row(self) -> dict[str, object]:
        """Return a flat row: the directory, the plain fields, the notes, the metrics and the overridden values."""
        plain = {key: value for key, value in self.fields.items() if not isinstance(value, dict | list)}
        notes = {"tags": " ".join(self.notes.tags), "note": self.notes.text}
        return {"directory": str(self.path), **plain, **notes, **self.fields["metrics"], **self.settings}

    @cached_property
    def _text(self) -> str:
        """Return the text of `config.yaml`, or an empty mapping where the file cannot be read."""
        try:
            return read_text(self.path, "config.yaml")
        except (OSError, ValueError):
            return "{}"

    def _group(self, name: str) -> object:
        """Return a group of `config.yaml`. Raises KeyError where there is none."""
        # For many runs, parsing the whole file would take ten times as long as parsing one group of it.
        part = re.search(rf"^{re.escape(name)}:.*?(?=^[^\s-]|\Z)", self._text, re.M | re.S)
        try:
            group: object = yaml.load(part[0], LOADER)[name] if part else self.config[name]
            check_values(group)
            return group
        except (yaml.YAMLError, TypeError, ValueError, RecursionError):
            return self.config[name]


# The keys of what is in none of the files that a run writes.
OWN_KEYS: dict[str, Callable[[Record], object]] = {
    "directory": lambda record: str(record.path),
    "age": lambda record: record.age,
    "tags": lambda record: record.notes.tags,
    "note": lambda record: record.notes.text,
}


class Runs(list[Record]):
    """A list of runs, the oldest first."""

    def frame(self) -> "pandas.DataFrame":
        """Return the rows as a pandas DataFrame. Raises RequestError where pandas is not installed."""
        return _table(self.rows())

    def rows(self) -> list[dict[str, object]]:
        """Return one flat row per run. A key that any run overrides is in the rows of all runs."""
        keys = dict.fromkeys(key for record in self for key in record.settings)
        return [record.row() | {key: record.get(key) for key in keys} for record in self]

    def where(self, condition: str) -> "Runs":
        """Return the runs that meet a condition, such as "(optimizer.lr<1e-2 or tags ~ good) and status=finished".

        Raises RequestError where the condition cannot be understood, or names a key that no run has.
        """
        meets = parse_condition(condition, self.check)
        return Runs(record for record in self if meets(record.get))

    def by(self, key: str, reverse: bool = False) -> "Runs":
        """Return the runs sorted by a key: metrics from the best on, other keys from the smallest on.

        Runs that do not have the key, or a number that is not finite, come last. Raises RequestError where no run has
        the key.
        """
        self.check(key)

        def is_last(value: object) -> bool:
            return value is None or (isinstance(value, float) and not math.isfinite(value))

        known = [record for record in self if not is_last(record.get(key))]
        known.sort(key=lambda record: sort_key(record[key]), reverse=self.best_is_largest(key) != reverse)
        return Runs([*known, *(record for record in self if is_last(record.get(key)))])

    def best_is_largest(self, key: str) -> bool:
        """Return whether a larger value of `key` is better: see `larger_is_better`."""
        lowers = [names for record in self if (names := record.fields.get("lower_is_better")) is not None]
        return larger_is_better(key, {name for names in lowers for name in names} if lowers else None)

    def check(self, key: str) -> None:
        """Raise RequestError for a key that no run has."""
        if self and not any(
            key.partition(".")[0] in record.fields or record.get(key, self) is not self for record in self
        ):
            known = self.keys()
            close = " or ".join(nearest_keys(key, known))
            raise RequestError(
                f"no run has a key {key!r}; {f'did you mean {close}?' if close else nearest(key, known)}"
            )

    def keys(self) -> set[str]:
        """Return the keys by which the runs can be sorted. The first hundred runs are read for them."""
        keys = {*OWN_KEYS}
        for record in self[:100]:
            keys |= {
                *record.fields,
                *record.fields["metrics"],
                *record.settings,
                *(key for key, value in walk(record.config) if not isinstance(value, dict)),
            }
        return keys


def runs(directory: str | os.PathLike[str] = "outputs", filter: str | None = None) -> Runs:
    """Return all runs below `directory`, the oldest first. Warns of each run that is damaged.

    filter: a condition that the runs meet, as for `Runs.where`. Raises RequestError where there is no such directory,
    or the condition is wrong.
    """
    if not Path(directory).is_dir():
        raise RequestError(f"{directory} is not a directory; `lamella train` makes outputs/")
    found = Runs(_records(directory))
    found.sort(key=lambda record: (record.fields["started"], str(record.path)))
    return found if filter is None else found.where(filter)


def first_runs(directory: str | os.PathLike[str], count: int) -> Runs:
    """Return the first runs that are found below `directory`, at most `count`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Runs(islice(_records(directory), count))


def _records(directory: str | os.PathLike[str]) -> Iterator[Record]:
    """Yield every run below `directory`. Warns of each run that is damaged."""
    for path in _run_directories(str(directory)):
        try:
            yield Record(Path(path), read_record(Path(path)))
        except RequestError as error:
            warnings.warn(str(error), stacklevel=3)


def _table(rows: Sequence[Mapping[str, object]]) -> "pandas.DataFrame":
    """Return rows as a pandas DataFrame. Raises RequestError where pandas is not installed."""
    try:
        import pandas
    except ImportError as error:
        raise RequestError("a table in Python needs pandas: pip install pandas") from error
    return pandas.DataFrame(rows)


def _run_directories(directory: str) -> Iterator[str]:
    """Yield every directory at or below `directory` that contains a `run.json`, without looking inside of one."""
    subdirectories = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name == "run.json":
                    yield directory
                    return
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                    subdirectories.append(entry.path)
    except OSError as error:
        warnings.warn(f"{directory}: cannot be read ({error.strerror})", stacklevel=2)
    for path in sorted(subdirectories):
        yield from _run_directories(path)
