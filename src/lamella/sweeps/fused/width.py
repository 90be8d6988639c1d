"""Choose how many networks are computed as one, once for a sweep."""

import fcntl
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from lamella.errors import RequestError

FILE = ".widths.jsonl"  # in the directory of the sweep: a line for each network, with its number of parameters
MUCH_FASTER = 0.9  # networks are computed one by one if that takes less than this share of the time of all together


def choose_width(directory: Path, parameters: int, networks: int, measure: Callable[[int], float]) -> tuple[int, str]:
    """Return how many networks are computed as one, and how that was found.

    The choice is kept in the directory of the sweep, because the bits of the results depend on it. All programs of the
    sweep follow it, also after an interruption. parameters: the number of parameters of a network. networks: how many
    there are. measure: returns the seconds that a network takes when so many are computed as one.
    """
    with _locked(directory / FILE) as file:
        known = {line["parameters"]: int(line["width"]) for line in map(json.loads, _whole_lines(file))}
        if width := known.get(parameters):
            return width, "as at the start of the sweep"
        seconds: dict[int, float] = {}
        size = networks
        while size not in seconds:
            seconds[size] = measure(size)
            # Once a smaller width is slower, no other is tried except 1.
            size = max(1, size // 2) if seconds[size] == min(seconds.values()) else 1
        width = min(sorted(seconds), key=lambda size: seconds[size] * (1 / MUCH_FASTER if size == 1 else 1))
        # A line that was not written whole is ended first.
        file.write("\n" + json.dumps({"parameters": parameters, "width": width}) + "\n")
        return width, _measured(seconds, width)


@contextmanager
def _locked(path: Path) -> Iterator[TextIO]:
    """Open a file for reading and appending, and lock it. Raises RequestError if it is a link or no ordinary file."""
    try:
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        raise RequestError(f"{path}: cannot be opened ({error.strerror})") from error
    with os.fdopen(number, "r+", encoding="utf-8") as file:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise RequestError(f"{path}: no ordinary file")
        fcntl.lockf(file, fcntl.LOCK_EX)  # ends with the process, or when the file is closed
        yield file


def _whole_lines(file: TextIO) -> list[str]:
    """Return the lines of the file, except those that were not written whole because the process was killed."""
    return [line for line in file if re.fullmatch(r'\{"parameters": \d+, "width": \d+\}\n', line)]


def _measured(seconds: dict[int, float], width: int) -> str:
    """Return as text what a step of one network takes with the chosen width, and with the others."""
    others = [
        f"{f'with {size} at once' if size > 1 else 'by itself'} {1e3 * seconds[size]:.2f} ms"
        for size in sorted(seconds)
        if size != width
    ]
    return "; ".join([f"{1e3 * seconds[width]:.2f} ms for a step of one", *others])
