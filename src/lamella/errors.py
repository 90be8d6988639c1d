"""The error for a request that is wrong, and functions that word such errors."""

import re
import traceback
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path

PACKAGE = Path(__file__).parent


class RequestError(ValueError):
    """An error for a config, an override or an input that cannot be run. The program ends with exit status 2.

    key: the config key that is to blame, if there is one; the command line names the file or override that it came
    from. unknown: True if the key itself is wrong, whatever its value is.
    """

    def __init__(self, message: str, key: str | None = None, unknown: bool = False) -> None:
        super().__init__(message)
        self.key, self.unknown = key, unknown


class RunFailed(RuntimeError):
    """An error for a run, or for runs of a sweep, that began and did not finish.

    path: the directory of the run or of the sweep.
    """

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message)
        self.path = path


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the hint that ends an error about an unknown name: the valid names nearest to `name`, or all of them."""
    known = sorted(set(map(str, names)))
    folded: dict[str, str] = {valid.lower(): valid for valid in known}
    close = [folded[match] for match in get_close_matches(str(name).lower(), folded, n=3, cutoff=0.7)]
    if close:
        return f"did you mean {' or '.join(close)}?"
    if len(known) > 40:
        return f"none of the {len(known)} names is similar"
    return f"known: {', '.join(known)}" if known else "there are none"


def nearest_keys(name: str, keys: Iterable[str]) -> list[str]:
    """Return the dotted keys, or names of metrics, whose last part resembles that of `name`: at most three.

    A dotted name is compared with its neighbours, and a bare one with the last part of every key, which it may also
    abbreviate.
    """
    place, last = _parted(name)
    ends: dict[str, list[str]] = {}
    for key in sorted(set(keys), key=lambda key: (len(re.split("[./]", key)), key)):
        if place in ("", _parted(key)[0]):
            ends.setdefault(_parted(key)[1], []).append(key)
    same = [last] if last in ends else [end for end in ends if len(last) > 2 and end.startswith(last)]
    close = same or get_close_matches(last, ends, n=1, cutoff=0.7)
    return ends[close[0]][:3] if close else []


def _parted(key: str) -> tuple[str, str]:
    """Return what comes before the last dot or slash of a key, and what comes after it."""
    *place, last = re.split(r"([./])", key)
    return "".join(place[:-1]), last


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or the name of its type if it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those that it was raised from."""
    yield error
    if error.__cause__:
        yield from causes(error.__cause__)


def own_frames(error: BaseException) -> str:
    """Return the last three places of a traceback in the project's own code, each as an indented line, or "".

    The project's own code are the files below the working directory, without installed packages.
    """
    here, lines = Path.cwd(), list[str]()
    for cause in causes(error):
        for frame in traceback.extract_tb(cause.__traceback__):
            path = Path(frame.filename).absolute()
            if path.is_relative_to(here) and not path.is_relative_to(PACKAGE) and "site-packages" not in path.parts:
                lines.append(f"\n  {path.relative_to(here)}, line {frame.lineno}, in {frame.name}: {frame.line}")
    return "".join(list(dict.fromkeys(lines))[-3:])
