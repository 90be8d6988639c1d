"""lamella compare RUN RUN…: show what differs in config and in result.

lamella compare outputs/default/seed=1 outputs/default/seed=2
lamella compare outputs/default/* --plot curves.png
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase

from lamella.commands.parser import CommandParser
from lamella.commands.several_runs import runs_among
from lamella.config.moved_targets import with_present_names
from lamella.config.values import Config, walk
from lamella.console import print
from lamella.errors import RequestError
from lamella.runs.charts import plot_curves
from lamella.runs.files import check_output_path
from lamella.runs.notes import read_notes
from lamella.runs.reader import read_epochs, read_run
from lamella.runs.schema import RunRecord
from lamella.tables import format_table

MOST_LINES = 200  # of the difference between two patches
NONE = "-"
RESULTS = ("parameters", "epochs", "best_epoch", "seconds")  # the fields of a record that are compared as results


def main(arguments: list[str]) -> int:
    """Print what differs between runs, and return the exit status."""
    parser = CommandParser(__doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="run directories")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the learning curves over each other: .png, .svg"
    )
    options = parser.parse_args(arguments)
    paths = runs_among(options.runs, least=2)
    if len(paths) < 2:
        raise RequestError("compare takes two runs or more")
    if options.plot:
        check_output_path(options.plot, "--plot")
    runs = [read_run(path) for path in paths]
    records = [record for record, _ in runs]
    names = [letter * (1 + number // 26) for number in range(len(paths)) for letter in ascii_uppercase[number % 26]]
    states = [record["status"].removeprefix("finished") for record in records]
    print(format_table([*zip(names, map(str, paths), states, strict=True)]))
    noted = [read_notes(path) for path in paths]
    if any(found.lines() for found in noted):
        cells = [{"tags": " ".join(found.tags) or NONE, "note": found.text or NONE} for found in noted]
        print(_section("notes", names, cells))
    print(_section("config", names, [dict(_settings(config, record)) for record, config in runs]))
    print(_section("versions", names, [record["versions"] for record in records]))
    print(_section("machine", names, [record.get("environment", {}) for record in records]))
    print(_section("git", names, [record["git"] or {} for record in records]))
    for name, path in zip(names[1:], paths[1:], strict=True):
        lines = list(_patch_difference(paths[0], path, names[0], name))
        if lines:
            print(f"\nuncommitted changes, {names[0]} against {name}", *lines[:MOST_LINES], sep="\n")
        if len(lines) > MOST_LINES:
            print(f"… and {len(lines) - MOST_LINES} lines more")
    print(_results(names, records))
    if options.plot:
        named = {f"{name}  {path}": read_epochs(path) for name, path in zip(names, paths, strict=True)}
        plot_curves(named, options.plot)
        print(f"\ndrawn in {options.plot}")
    return 0


def _section(title: str, names: Sequence[str], columns: Sequence[Mapping[str, object]]) -> str:
    """Return a table with a row for each key whose value is not the same in all columns. names: of the columns."""
    rows = [
        [key, *(str(column.get(key, NONE)) for column in columns)]
        for key in dict.fromkeys(key for column in columns for key in column)
        if any(column.get(key, NONE) != columns[0].get(key, NONE) for column in columns)
    ]
    return "\n" + (format_table([[title, *names], *rows], names[:1:-1]) if rows else f"{title}: the same")


def _settings(config: Config, record: RunRecord) -> Iterator[tuple[str, object]]:
    """Yield the chosen option of each group, and the values of the config, without copies of the value of another key.

    A list of plain values counts as one value.
    """
    yield from record["choices"].items()
    if "weights" in record:
        yield "network.weights, SHA-256", record["weights"].get("sha256")
    whole = set(record["reads"])  # the keys whose items are left out: copies, and lists of plain values
    for key, value in walk(with_present_names(config)):
        if key.rpartition(".")[0] in whole:
            whole.add(key)
        elif isinstance(value, list) and not any(isinstance(item, dict | list) for item in value):
            whole.add(key)
            if key not in record["reads"]:
                yield key, value
        elif key not in whole and not isinstance(value, dict | list):
            yield key, value


def _results(names: Sequence[str], records: Sequence[RunRecord]) -> str:
    """Return a table of the results that differ, each with its difference from that of the first run."""
    first, *others = [_numbers(record) for record in records]
    columns = [{key: _text(value) for key, value in first.items()}]
    columns += [{key: _text(value, first.get(key)) for key, value in other.items()} for other in others]
    return _section("results", names, columns)


def _numbers(record: RunRecord) -> dict[str, float | None]:
    """Return the results of a run: some fields of its record, and its metrics."""
    fields: Mapping[str, object] = record
    values = {name: fields.get(name) for name in RESULTS} | record["metrics"]
    return {name: value if isinstance(value, int | float) else None for name, value in values.items()}


def _text(value: float | None, first: float | None = None) -> str:
    """Return a result as text; with the difference from `first`, the result of the first run, in parentheses."""
    if value is None:
        return NONE
    form = ".4f" if isinstance(value, float) else ","
    return f"{value:{form}}" + ("" if first is None or first == value else f" ({value - first:+{form}})")


def _patch_difference(one: Path, other: Path, name: str, other_name: str) -> Iterator[str]:
    """Yield the lines of a diff between the uncommitted changes of two runs."""
    files = [path / "git.patch" for path in (one, other)]
    before, now = (file.read_text("utf-8", "replace").splitlines() if file.is_file() else [] for file in files)
    yield from difflib.unified_diff(before, now, f"{name}/git.patch", f"{other_name}/git.patch", lineterm="", n=1)
