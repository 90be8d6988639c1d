"""lamella compare RUN RUN…: what differs in config and in result.

lamella compare outputs/default/seed=1 outputs/default/seed=2
lamella compare outputs/default/* --plot curves.png
"""

import argparse
import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from lamella.config.values import walk
from lamella.errors import RequestError
from lamella.runs.charts import plot_curves
from lamella.runs.reader import read_epochs, read_run
from lamella.tables import format_table, printable

MOST = 200  # lines of what differs between patches
NONE = "-"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("lamella compare", description="What differs in config and in result.")
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="run directories")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the learning curves over each other: .png, .svg"
    )
    options = parser.parse_args(arguments)
    paths: list[Path] = options.runs
    if len(paths) < 2:
        raise RequestError("compare takes two runs or more")
    read = [read_run(path) for path in paths]
    fields = [record for record, _ in read]
    names = [letter * (1 + number // 26) for number in range(len(paths)) for letter in ascii_uppercase[number % 26]]
    states = [record["status"].removeprefix("finished") for record in fields]
    print(format_table([*zip(names, map(str, paths), states, strict=True)]))
    print(_section("config", names, [dict(_settings(config, record)) for record, config in read]))
    print(_section("versions", names, [record["versions"] for record in fields]))
    print(_section("machine", names, [record.get("environment", {}) for record in fields]))
    print(_section("git", names, [record["git"] or {} for record in fields]))
    for name, path in zip(names[1:], paths[1:], strict=True):
        changed = list(_patches(paths[0], path, names[0], name))
        if changed:
            print(f"\nuncommitted changes, {names[0]} against {name}", *map(printable, changed[:MOST]), sep="\n")
        if len(changed) > MOST:
            print(f"… and {len(changed) - MOST} lines more")
    print(_results(names, fields))
    if options.plot:
        named = {f"{name}  {path}": read_epochs(path) for name, path in zip(names, paths, strict=True)}
        plot_curves(named, options.plot)
        print(f"\ndrawn in {options.plot}")
    return 0


def _section(title: str, names: Sequence[str], columns: Sequence[Mapping[str, Any]]) -> str:
    """A row for each key whose value is not the same in all columns."""
    rows = [
        [key, *(str(column.get(key, NONE)) for column in columns)]
        for key in dict.fromkeys(key for column in columns for key in column)
        if any(column.get(key, NONE) != columns[0].get(key, NONE) for column in columns)
    ]
    return "\n" + (format_table([[title, *names], *rows]) if rows else f"{title}: the same")


def _settings(config: Mapping[str, Any], record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The options chosen, and a config's values by key, without those that only repeat another key's."""
    yield from record["choices"].items()
    whole = set[str]()  # lists of plain values, which are one value
    for key, value in walk(config):
        if key in record["reads"] or key.rpartition(".")[0] in whole:
            continue
        if isinstance(value, list) and not any(isinstance(item, dict | list) for item in value):
            whole.add(key)
        if key in whole or not isinstance(value, dict | list):
            yield key, value


def _results(names: Sequence[str], fields: Sequence[Mapping[str, Any]]) -> str:
    """Epochs and metrics that differ, each with how far it is from the first run's."""
    plain = ("parameters", "epochs", "best_epoch", "seconds")
    columns = [{name: one.get(name) for name in plain} | one["metrics"] for one in fields]
    return _section(
        "results",
        names,
        [
            {key: _against(value, None if number == 0 else columns[0].get(key)) for key, value in column.items()}
            for number, column in enumerate(columns)
        ],
    )


def _against(value: Any, first: Any) -> str:
    if value is None:
        return NONE
    places = ".4f" if isinstance(value, float) else ","
    return f"{value:{places}}" + ("" if first is None or first == value else f" ({value - first:+{places}})")


def _patches(one: Path, other: Path, name: str, other_name: str) -> Iterator[str]:
    """How the uncommitted changes of two runs differ, as a diff of the patches."""
    files = [path / "git.patch" for path in (one, other)]
    before, now = (file.read_text(errors="replace").splitlines() if file.is_file() else [] for file in files)
    yield from difflib.unified_diff(before, now, f"{name}/git.patch", f"{other_name}/git.patch", lineterm="", n=1)
