"""The command line becomes composed configs, one a job.

Nothing here imports torch, so that `lamella train --cfg job` answers within a second.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lamella.errors import RequestError

OUTPUTS = Path("outputs")
LONGEST = 120  # bytes of a directory's name; file systems stop at 255


def slug(overrides: Sequence[str]) -> str:
    """A directory name for these overrides: legible, at most 120 bytes, and another one for other overrides.

    The order of the overrides does not matter. What had to be changed or cut is made unique by a hash; what is too
    long loses the first parts of its keys before it loses its end.
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
    return re.sub(r"[^\w.,=+~@-]+", "-", text, flags=re.ASCII)


def check_run_name(name: Any) -> str:
    """`name`, if it can be that of a directory in `outputs/`. Raises RequestError."""
    if not isinstance(name, str) or name.startswith(".") or "/" in name or not name.strip():
        raise RequestError(f"name is {name!r}; it names a directory in outputs/, and takes a word", "name")
    return name


def claim_directory(parent: Path, name: str) -> Path:
    """Make `parent/name`, or `parent/name_2` and so on where that exists: whoever made it owns it.

    Raises RequestError where it cannot be written.
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
