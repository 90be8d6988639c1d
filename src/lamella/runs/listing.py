"""Runs as rows: found below a directory, filtered and sorted by any key of their records and configs."""

import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from lamella.config.values import check_values, override_values, parse_value, walk
from lamella.errors import RequestError, nearest
from lamella.runs.query import ORDER, OUTSIDE, meets, sort_key
from lamella.runs.ranking import larger_is_better
from lamella.runs.reader import read_record, read_text

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # PyYAML may be built without its parser in C


@dataclass(frozen=True)
class Record:
    """One run: `record["val/accuracy"]` is a metric, `record["status"]` a field, `record["optimizer.lr"]` its config's.

    fields: all that `run.json` holds.
    """

    path: Path
    fields: dict[str, Any]

    def __getitem__(self, key: str) -> Any:
        """The value of a key of the record, of its metrics or of the config. Raises KeyError where it has none."""
        if key in ("directory", "age"):
            return str(self.path) if key == "directory" else self.age
        for found in (self.fields, self.fields["metrics"], self.settings, self.fields["choices"]):
            if key in found:
                return found[key]
        first, *rest = key.split(".")
        node = self.fields[first] if first in self.fields else self._group(first)
        for part in rest:
            if isinstance(node, list) and part.isdigit() and int(part) < len(node):
                node = node[int(part)]
            elif isinstance(node, dict) and part in node:
                node = node[part]
            else:
                raise KeyError(key)
        return node

    def get(self, key: str, default: Any = None) -> Any:
        try:
            return self[key]
        except KeyError:
            return default

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What its overrides set; what is no plain value is left to the config."""
        plain = override_values(self.fields["overrides"])
        return {key: parse_value(text) for key, text in plain.items() if re.fullmatch(r"[\w.+/-]+", text)}

    def _group(self, name: str) -> Any:
        """A group of `config.yaml`. Raises KeyError where there is none."""
        # Of many runs, reading the whole would take ten times as long.
        part = re.search(rf"^{re.escape(name)}:.*?(?=^[^\s-]|\Z)", self._text, re.M | re.S)
        try:
            found = yaml.load(part[0], LOADER)[name] if part else self.config[name]
            check_values(found)
            return found
        except (yaml.YAMLError, TypeError, ValueError, RecursionError):
            return self.config[name]

    @cached_property
    def _text(self) -> str:
        try:
            return read_text(self.path, "config.yaml")
        except (OSError, ValueError):
            return "{}"

    @cached_property
    def config(self) -> dict[str, Any]:
        """All that `config.yaml` holds; empty where that is damaged."""
        try:
            loaded = yaml.load(self._text, LOADER)
            check_values(loaded)
        except (yaml.YAMLError, ValueError, RecursionError):
            loaded = None
        return loaded if isinstance(loaded, dict) else {}

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        try:
            return (datetime.now(UTC) - datetime.fromisoformat(self.fields["started"])).total_seconds()
        except (ValueError, TypeError):
            return float("nan")

    def row(self) -> dict[str, Any]:
        """One flat row: the directory, the plain fields, the metrics and what was overridden."""
        plain = {key: value for key, value in self.fields.items() if not isinstance(value, dict | list)}
        return {"directory": str(self.path), **plain, **self.fields["metrics"], **self.settings}


class Runs(list[Record]):
    """Records, the oldest first."""

    def frame(self) -> Any:
        """The rows as a pandas DataFrame. Raises ModuleNotFoundError where pandas is not installed."""
        import pandas

        return pandas.DataFrame(self.rows())

    def rows(self) -> list[dict[str, Any]]:
        """One flat row a run; a key that any of them overrides is told of all."""
        keys = dict.fromkeys(key for record in self for key in record.settings)
        return [record.row() | {key: record.get(key) for key in keys} for record in self]

    def where(self, condition: str) -> "Runs":
        """Those that meet a condition such as "optimizer.lr<1e-2 and status=finished". Raises RequestError."""
        alternatives = [
            [self._clause(clause) for clause in re.split(rf"\s+and\s+{OUTSIDE}", part)]
            for part in re.split(rf"\s+or\s+{OUTSIDE}", condition.strip())
        ]
        return Runs(
            record
            for record in self
            if any(all(meets(record.get(key), sign, value) for key, sign, value in part) for part in alternatives)
        )

    def by(self, key: str, reverse: bool = False) -> "Runs":
        """Sorted by a key: metrics from the best on, all else from the smallest on; what has none comes last."""
        self.check(key)
        known = [record for record in self if record.get(key) is not None]
        known.sort(key=lambda record: sort_key(record[key]), reverse=larger_is_better(key) != reverse)
        return Runs([*known, *(record for record in self if record.get(key) is None)])

    def _clause(self, text: str) -> tuple[str, str, Any]:
        found = re.fullmatch(r"\s*([\w./-]+)\s*(<=|>=|!=|==|=|<|>)\s*([^\s<>=!].*?)\s*", text)
        if not found:
            raise RequestError(
                f"{text!r} is no condition; write KEY, one of < <= = != >= >, and a value, with `and` or `or` between"
            )
        key, sign, given = found.groups()
        self.check(key)
        quoted = given[0] == given[-1] == "'"
        value = given[1:-1] if quoted else parse_value(given)
        if not quoted and given[0] != "[" and " " in given:
            raise RequestError(f"{text!r}: a value with a space stands in quotes, and `and` or `or` between conditions")
        if sign in ORDER and not isinstance(value, int | float):
            raise RequestError(f"{text!r}: {sign} compares with a number, and {given!r} is none")
        return key, sign, value

    def check(self, key: str) -> None:
        """Raise RequestError for a key that no run has."""
        if self and not any(
            key.partition(".")[0] in record.fields or record.get(key, self) is not self for record in self
        ):
            raise RequestError(f"no run has a key {key!r}; {nearest(key, self.keys())}")

    def keys(self) -> set[str]:
        """What the runs can be sorted by."""
        found = {"directory", "age"}
        for record in self[:100]:
            found |= {
                *record.fields,
                *record.fields["metrics"],
                *record.settings,
                *(key for key, value in walk(record.config) if not isinstance(value, dict)),
            }
        return found


def runs(directory: str | os.PathLike[str] = "outputs") -> Runs:
    """The records of all runs below `directory`, the oldest first; of what is damaged there is a warning.

    Raises RequestError where there is no such directory.
    """
    if not Path(directory).is_dir():
        raise RequestError(f"{directory} is no directory; `lamella train` makes outputs/")
    found = Runs()
    for path in _find(str(directory)):
        try:
            found.append(Record(Path(path), read_record(Path(path))))
        except RequestError as error:
            warnings.warn(str(error), stacklevel=2)
    found.sort(key=lambda record: (record.fields["started"], str(record.path)))
    return found


def _find(directory: str) -> Iterator[str]:
    """Every directory that holds a `run.json`; nothing inside one is looked at."""
    inner = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name == "run.json":
                    yield directory
                    return
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                    inner.append(entry.path)
    except OSError as error:
        warnings.warn(f"{directory}: cannot be read ({error.strerror})", stacklevel=2)
    for path in sorted(inner):
        yield from _find(path)
