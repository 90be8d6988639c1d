"""Functions that format tables and numbers for a terminal, and that write and read tables as CSV."""

import csv
import io
import math
import os
import shutil
import sys
import textwrap
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import gt
from pathlib import Path

from rich.cells import cell_len

from lamella.errors import RequestError, first_line

DELIMITERS = ",;\t|"  # the most frequent one in the header of a CSV file is taken
LEAST = 16  # the characters that a text in a table keeps; numbers are shorter


def format_duration(seconds: float) -> str:
    """Return a duration in the largest unit that it reaches, from seconds to days, or "-" if it is not finite."""
    if not math.isfinite(seconds):
        return "-"
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def format_mean(mean: float | None, spread: float | None) -> str:
    """Return a mean with its standard deviation, if there is one, or "-" where there is no mean."""
    if mean is None:
        return "-"
    form = ".4f" if abs(mean) < 100 else ".6g"
    return f"{mean:{form}}" if spread is None else f"{mean:{form}} ± {spread:{form}}"


def format_size(count: float) -> str:
    """Return a number of bytes in MB, or in GB from a thousand MB on."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


def terminal_width() -> float:
    """Return the number of columns of the terminal, or infinity if standard output is no terminal.

    The environment variable COLUMNS, if it is set, counts in both cases.
    """
    if os.environ.get("COLUMNS", "").isdigit() or sys.stdout.isatty():
        return shutil.get_terminal_size().columns
    return math.inf


def format_table(rows: Sequence[Sequence[str]], droppable: Sequence[str] = ()) -> str:
    """Return the rows as lines with aligned columns, two spaces apart; control characters become question marks.

    If the table is wider than the terminal, long texts are shortened in their middle, down to LEAST characters, or more
    if different texts of a column would look alike. If that is not enough, the columns in `droppable` are left out, the
    first one first, and a line below the table names them.

    rows: the first row has the headings.
    """
    columns = [[printable(cell) for cell in column] for column in zip(*rows, strict=True)]
    widths = [max(map(cell_len, column)) for column in columns]
    room, dropped = terminal_width() + 2, list[str]()  # each column is followed by two spaces, also the last one
    if sum(widths) + 2 * len(widths) > room:
        least = [_least_width(column, width) for column, width in zip(columns, widths, strict=True)]
        for head in droppable:
            if sum(least) + 2 * len(least) <= room:
                break
            kept = [number for number, column in enumerate(columns) if column[0] != head]
            dropped += [head] * (len(kept) < len(columns))
            columns = [columns[number] for number in kept]
            widths, least = [widths[number] for number in kept], [least[number] for number in kept]
        _shrink(widths, least, room)
        _shrink(widths, [LEAST] * len(widths), room)
    columns = [
        [_padded(shorten_middle(cell, width), width) for cell in column]
        for column, width in zip(columns, widths, strict=True)
    ]
    lines = ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]
    if dropped:
        lines += textwrap.wrap(f"(not shown: {', '.join(dropped)})", int(room) - 2)
    return "\n".join(lines)


def _least_width(column: Sequence[str], width: int) -> int:
    """Return the width to which the texts of a column can be shortened so that different texts still look different.

    width: of the longest text. The widths between LEAST and `width` are bisected.
    """
    texts = set(column)
    widths = range(min(LEAST, width), width)

    def are_different(width: int) -> bool:
        return len({shorten_middle(text, width) for text in texts}) == len(texts)

    return widths.start + bisect_left(widths, True, key=are_different)


def _shrink(widths: list[int], least: Sequence[int], room: float) -> None:
    """Make the widest columns narrower, in place, until the table fits or none is wider than its least width."""
    while sum(widths) + 2 * len(widths) > room and any(map(gt, widths, least)):
        widths[max(range(len(widths)), key=lambda number: (widths[number] > least[number]) * widths[number])] -= 1


def shorten_middle(text: str, width: int) -> str:
    """Return a text with an ellipsis in place of its middle if it takes more than `width` columns of the terminal.

    The end keeps more than the beginning, because it tells paths apart.
    """
    if cell_len(text) <= width:
        return text
    start, end = text[: width // 3], text[-(width - width // 3 - 1) :]
    while start + end and cell_len(start) + cell_len(end) + 1 > width:  # letters may be two columns wide
        start, end = (start[:-1], end) if len(start) > len(end) else (start, end[1:])
    return f"{start}…{end}"


def _padded(text: str, width: int) -> str:
    """Return a text filled with spaces up to `width` columns of the terminal."""
    return text + " " * (width - cell_len(text))


def format_csv(rows: Iterable[Iterable[object]]) -> str:
    """Return rows as CSV. Texts that a spreadsheet would take for a formula begin with an apostrophe.

    Such texts begin with one of = + - @ and are no numbers.
    """
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(map(_csv_cell, row) for row in rows)
    return text.getvalue()


def _csv_cell(value: object) -> object:
    if value is None or isinstance(value, int | float):
        return value
    text = str(value)
    try:
        float(text)
    except ValueError:
        return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) else text
    return text


@dataclass(frozen=True)
class Table:
    """The cells of a table, as text.

    path: of the file, for messages. columns: the cells of each column by its name. rows: the number of each row as a
    spreadsheet shows it, where the header is row 1. unnamed: how many columns have no name and are left out.
    """

    path: str
    columns: dict[str, list[str]]
    rows: list[int]
    unnamed: int = 0


def read_csv(path: str, key: str | None = None) -> Table:
    """Return the cells of a CSV file in UTF-8, whose first row names the columns; blank rows are left out.

    The delimiter is a comma, semicolon, tab or bar, whichever the first row has most of. key: the config key of the
    path, for messages. Raises RequestError where the file cannot be read, has no rows, two columns of one name, or a
    row that is longer or shorter than the first one.
    """
    text = _read_text(path, key)
    header = text.lstrip().partition("\n")[0]
    delimiter = max(DELIMITERS, key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        [(_, first), *rows] = [(number, row) for number, row in enumerate(reader, 1) if any(map(str.strip, row))]
    except csv.Error as error:
        raise RequestError(f"{path}: line {reader.line_num} is no CSV: {first_line(error)}", key) from error
    names = [name.strip() for name in first]
    if repeated := [name for name in names if name and names.count(name) > 1]:
        raise RequestError(f"{path}: two columns have the name {repeated[0]!r}; rename one of them", key)
    if wrong := next((number for number, row in rows if len(row) != len(names)), None):
        cells = len(dict(rows)[wrong])
        raise RequestError(
            f"{path}: row {wrong} has {cells} cells, but the first row names {len(names)} columns; cells with a "
            f"{delimiter!r} in them stand in double quotes",
            key,
        )
    if not rows:
        raise RequestError(f"{path}: below the names of its columns, the file has no rows", key)
    columns = [[cell.strip() for cell in column] for column in zip(*(row for _, row in rows), strict=True)]
    named = {name: column for name, column in zip(names, columns, strict=True) if name}
    return Table(path, named, [number for number, _ in rows], len(names) - len(named))


def _read_text(path: str, key: str | None) -> str:
    """Return the text of a file in UTF-8, with or without a byte-order mark. Raises RequestError."""
    try:
        content = Path(path).expanduser().read_bytes()
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if b"\0" in content:
            raise RequestError(
                f"{path}: this is no text file; it takes CSV, in UTF-8 and not in UTF-16", key
            ) from error
        line = content[: error.start].count(b"\n") + 1
        raise RequestError(
            f"{path}: line {line} is not in UTF-8; save the file as UTF-8, or convert it:\n"
            f"  iconv -f latin1 -t utf-8 {path} > new.csv",
            key,
        ) from error
    except OSError as error:
        raise RequestError(f"{path}: this file cannot be read ({error.strerror})", key) from error
    if not text.strip():
        raise RequestError(f"{path}: the file is empty; its first row has to name the columns", key)
    return text


def printable(text: str) -> str:
    """Return `text` with a question mark for each control character, which a terminal would obey or could not show."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)
