"""Text tables, and numbers as people read them."""

import math
from collections.abc import Sequence


def format_duration(seconds: float) -> str:
    """In the largest unit of which there is one."""
    if not math.isfinite(seconds):
        return "-"
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def format_size(count: float) -> str:
    """Bytes in MB, or from a thousand on in GB."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned, two spaces between them; what a terminal would obey becomes a question mark."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def printable(text: str) -> str:
    """Text without what a terminal would obey, or could not show: that becomes a question mark."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)
