"""Rows for people: the epochs of a run, its end, and tables."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def epoch(metrics: Mapping[str, float], epochs: int | None) -> str:
    """One epoch in one line: `epoch  3/10  train loss 0.1234 accuracy 0.9612  val loss …  1.2 s`."""
    count = f"{int(metrics['epoch']):>{len(str(epochs))}}/{epochs}" if epochs else f"{int(metrics['epoch'])}"
    stages = [_stage(stage, metrics) for stage in ("train", "val")]
    return "  ".join([f"epoch {count}", *filter(None, stages), f"{metrics['seconds']:.1f} s"])


def finished(best_epoch: int, epochs: int, metrics: Mapping[str, float], path: Path) -> str:
    """What came out of a run, where it is, and how to look at it."""
    rows = {
        "best epoch": f"{best_epoch} of {epochs}  {_stage('val', metrics)}",
        "test": _stage("test", metrics).removeprefix("test "),
        "directory": str(path),
        "curves": f"lamella board {path.parts[0] if path.parts else path}",
    }
    return "\n".join(f"{name:<12}{value}" for name, value in rows.items())


def layers(rows: Sequence[Any], batch: int, width: int = 80) -> str:
    """The shape trace as a table, with the shapes of a batch; where it is wider than `width`, in two lines a layer."""
    totals = sum(row.parameters for row in rows), sum(row.multiply_adds for row in rows)
    lines: list[list[str]] = [["layer", "class", "input", "output", "parameters", "mult-adds"]]
    for row in rows:
        shapes = [str((batch, *sample)) for sample in (row.input, row.output)]
        place = row.place.removeprefix("network.layers.")
        lines.append([place, row.layer, *shapes, f"{row.parameters:,}", f"{row.multiply_adds:,}"])
    lines.append(["total", "", "", "", *(f"{total:,}" for total in totals)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    two = sum(widths) + 2 * (len(widths) - 1) > width
    aligned = []
    for line in lines:
        cells = [*map(str.ljust, line[:4], widths), *map(str.rjust, line[4:], widths[4:])]
        aligned += (
            [f"{line[0]}  {line[1]}".rstrip(), "    " + "  ".join(cells[2:])] if two else ["  ".join(cells).rstrip()]
        )
    return "\n".join(aligned)


def larger_is_better(key: str) -> bool:
    """Whether more of what a key names is better: of metrics all but errors, of all else nothing."""
    return "/" in key and not key.endswith(("loss", "mae"))


def duration(seconds: float) -> str:
    """In the largest unit of which there is one."""
    if not math.isfinite(seconds):
        return "-"
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def size(count: float) -> str:
    """Bytes in MB, or from a thousand on in GB."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


def settings(overrides: Sequence[str]) -> dict[str, str]:
    """What overrides set, by key."""
    return dict(override.lstrip("+~").partition("=")[::2] for override in overrides)


def number(text: str) -> float | str:
    """A value of `settings` as a number where it is one, so that it sorts and plots as one."""
    try:
        return float(text)
    except ValueError:
        return text


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned, two spaces between them; what a terminal would obey becomes a question mark."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def printable(text: str) -> str:
    """Text without what a terminal would obey, or could not show: that becomes a question mark."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)


def _stage(stage: str, metrics: Mapping[str, float]) -> str:
    values = {name.partition("/")[2]: value for name, value in metrics.items() if name.startswith(f"{stage}/")}
    return f"{stage} " + " ".join(f"{name} {value:.4f}" for name, value in values.items()) if values else ""
