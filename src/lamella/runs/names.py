"""Names of run directories, and the directories themselves.

Nothing here imports torch, so that `lamella train --cfg job` answers within a second.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from lamella.errors import RequestError

OUTPUTS = Path("outputs")
LONGEST = 120  # bytes of a directory's name; file systems stop at 255


def slug(overrides: Sequence[str]) -> str:
    """Return a legible directory name for these overrides, at most 120 bytes long and different for other overrides.

    The order of the overrides does not matter. A name from which characters were replaced or cut ends with a hash,
    which makes it unique. A name that is too long loses the first parts of its keys before it loses its end.
    """
    ordered = sorted(overrides)
    text = ",".join(ordered) or "defaults"
    name = _legible(text)
    if name == text and len(name) <= LONGEST and not name.startswith("."):
        return name
    if len(name) > LONGEST - 9:
        name = _legible(",".join(re.sub(r"^[\w.@/]*\.(?=\w+=)", "", override) for override in ordered))
    digest = hashlib.sha256("\0".join(ordered).encode()).hexdigest()[:8]
    return f"{name.lstrip('.')[: LONGEST - 9]}-{digest}"


def _legible(text: str) -> str:
    """Return `text` with a hyphen in place of the characters that are awkward in a file name."""
    return re.sub(r"[^\w.,=+~@-]+", "-", text, flags=re.ASCII)


def check_run_name(name: object) -> str:
    """Return `name` if it can name a directory in `outputs/`. Raises RequestError where it cannot."""
    if not isinstance(name, str) or name.startswith(".") or {"/", "\0"} & {*name} or not name.strip():
        raise RequestError(f"name is {name!r}; it names a directory in outputs/, and takes a word", "name")
    return name


def claim_directory(parent: Path, name: str) -> Path:
    """Make `parent/name`, or `parent/name_2` and so on where that exists, and return its path.

    No two processes get one directory. Raises RequestError where the directory cannot be made.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            path = parent / (name if number == 1 else f"{name}_{number}")
            try:
                path.mkdir()
            except FileExistsError:
                number += 1
            else:
                return path
    except OSError as error:
        raise RequestError(f"{parent}: cannot write there ({error.strerror})", "outputs") from error
