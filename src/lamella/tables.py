"""Functions that format tables and numbers for a terminal, and tables as CSV."""

import csv
import io
import math
from collections.abc import Iterable, Sequence


def format_duration(seconds: float) -> str:
    """Return a duration in the largest unit that it reaches, from seconds to days, or "-" if it is not finite."""
    if not math.isfinite(seconds):
        return "-"
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def format_size(count: float) -> str:
    """Return a number of bytes in MB, or in GB from a thousand MB on."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Return the rows as lines with aligned columns, two spaces apart; control characters become question marks."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


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


def printable(text: str) -> str:
    """Return `text` with a question mark for each control character, which a terminal would obey or could not show."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)
