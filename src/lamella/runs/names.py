"""Names of run directories, and the directories themselves.

Nothing here imports torch, so that `lamella train --cfg job` answers within a second.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from pathlib import Path

from lamella.config.values import key_of
from lamella.errors import RequestError

OUTPUTS = Path("outputs")
CACHE = ".cache"  # in the outputs, where `lamella.data.cache` keeps decoded images
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
    return f"{name.lstrip('.')[: LONGEST - 9]}-{_digest(overrides, 8)}"


def member_names(
    jobs: Sequence[Sequence[str]], swept: Collection[str], known: Mapping[str, Sequence[str]]
) -> list[str]:
    """Return a legible directory name for each job of a sweep, such as `lr=0.01,width=64,seed=0`.

    A name consists of what was swept, in the order of the command line, and of what differs from the sweep's earlier
    jobs. A key is shortened to its last part where that is unique, and a mapping to the name of its class. Names that
    would be equal end with a hash of all overrides.

    jobs: the overrides of each job. swept: the keys that have several values. known: the overrides of the sweep's
    earlier jobs, by their names.
    """
    keys = {key_of(key) for key in swept}
    shared = set.intersection(*map(set, known.values() if known else [chain(*jobs)]))
    parts = [
        [text for text in job if key_of(text) != "name" and (key_of(text) in keys or text not in shared)]
        for job in jobs
    ]
    short = short_keys([key_of(text) for texts in parts for text in texts])
    names = [",".join(f"{short[key_of(text)]}={_short_value(text)}" for text in texts) for texts in parts]
    names = [_legible(name).lstrip(".") or slug(job) for name, job in zip(names, jobs, strict=True)]
    # Some file systems do not tell capitals from small letters.
    counts = Counter(name.lower() for name in [*names, *known])
    return [
        name if counts[name.lower()] == 1 and len(name) <= LONGEST else f"{name[: LONGEST - 9]}-{_digest(job, 8)}"
        for name, job in zip(names, jobs, strict=True)
    ]


def sweep_name(swept: Collection[str], line: Sequence[str], digits: int = 4) -> str:
    """Return a directory name for a sweep that was given none: its keys and a hash, such as `lr×width-3f2a`.

    swept: the keys that have several values. line: the overrides of the command line, on whose order the name does not
    depend. digits: of the hash.
    """
    short = short_keys([key_of(key) for key in swept if key != "name"])
    name = _encodable("×".join(sorted(map(_legible, short.values()))))
    while len(os.fsencode(name)) > LONGEST - 1 - digits:
        name = name[:-1]
    return f"{name}-{_digest(line, digits)}" if name else slug(line)


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Return for each key its last part, or the whole key where several keys have this last part.

    The number of an item of a list is kept together with the key of the list.
    """
    last = {key: re.sub(r"^.*\.(?=[^\W\d][^.]*(?:\.\d+)*$)", "", key) for key in keys}
    counts = Counter(last.values())
    return {key: text if counts[text] == 1 else key for key, text in last.items()}


def _short_value(override: str) -> str:
    """Return the value of an override with the name of its class in place of each mapping that has a `_target_`."""
    value, before = override.partition("=")[2], ""
    while value != before:
        before, value = value, re.sub(r"\{[^{}]*_target_:\s*(?:[\w.]+\.)?(\w+)[^{}]*\}", r"\1", value)
    return value.strip("[]{}'\"")


def _digest(overrides: Sequence[str], digits: int) -> str:
    """Return a hash of overrides, on whose order it does not depend."""
    return hashlib.sha256("\0".join(sorted(overrides)).encode()).hexdigest()[:digits]


def _encodable(name: str) -> str:
    """Return a name with an x for each × where the names of files cannot contain it."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return name.replace("×", "x")
    return name


def _legible(text: str) -> str:
    """Return `text` with a hyphen in place of the characters that are awkward in a file name."""
    return re.sub(r"[^\w.,=+~@-]+", "-", text, flags=re.ASCII)


def check_run_name(name: object, key: str = "name") -> str:
    """Return `name`, the value of a config key, if it can name a directory. Raises RequestError where it cannot."""
    if not isinstance(name, str) or name.startswith(".") or {"/", "\0"} & {*name} or not name.strip():
        raise RequestError(f"{key} is {name!r}; it names a directory in outputs/, and takes a word", key)
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
