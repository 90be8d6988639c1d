"""Find and read text files: a user's own, and those that come with Python."""

import os
import sysconfig
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lamella.data.folders import files_below, find_matches
from lamella.errors import RequestError

BINARY = "binary"
EMPTY = "empty"
# Folders below Python's standard library that differ from machine to machine, or hold tests or tables.
FOREIGN = ("site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "encodings", "pydoc_data")


def find_text_files(paths: Sequence[str]) -> tuple[list[str], Counter[str]]:
    """Return the files that `data.paths` names, each once, and how many files in folders are left out, by their kind.

    paths: files, folders and patterns, in their order. In a folder, hidden, empty and binary files are left out.
    Raises RequestError for a path that names no file.
    """
    found, left_out = dict[str, None](), Counter[str]()
    for given in map(str, paths):
        path = Path(given).expanduser()
        if path.is_dir():
            inside, others = files_below(path, None)
            kinds = {file: _problem(Path(file).read_bytes()) for file in inside}
            matched = [file for file, problem in kinds.items() if not problem]
            left_out += others + Counter(problem for problem in kinds.values() if problem)
        else:
            matched = [str(path)] if path.is_file() else find_matches(str(path))
        if not matched:
            why = "holds no text" if path.is_dir() else "is no file or folder, and as a pattern it matches none"
            raise RequestError(f"data.paths: {given} {why}", "data.paths")
        found |= dict.fromkeys(matched)
    return list(found), left_out


def library_files(folder: str = "") -> list[str]:
    """Return the source files of Python's standard library, without tests. folder: of a package in it.

    They are sorted by a checksum of their names, so that the first and the last of them are of the same kinds.
    """
    found, library = [], sysconfig.get_paths()["stdlib"]
    for place, folders, names in os.walk(os.path.join(library, folder)):
        folders[:] = [name for name in folders if name not in FOREIGN]
        found += [os.path.join(place, name) for name in names if name.endswith(".py")]
    return sorted(found, key=lambda path: zlib.crc32(os.path.relpath(path, library).encode()))


def read_text_file(path: str, key: str | None = None) -> bytes:
    """Return what a text file holds. Raises RequestError for a file that is empty, binary or cannot be read.

    key: the config key of the path, for messages, None for a path that is in no config.
    """
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise RequestError(f"{_prefix(key)}{path} cannot be read ({error.strerror})", key) from error
    if problem := _problem(text):
        way = "; it takes text, in UTF-8 and not in UTF-16" if problem == BINARY else ""
        raise RequestError(f"{_prefix(key)}{path} is {problem}{way}", key)
    return text


def decode_text(text: bytes, path: str, key: str | None = None) -> str:
    """Return the text of a file in UTF-8. Raises RequestError for other encodings."""
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{_prefix(key)}{path} is not in UTF-8 (byte {text[error.start]} at {error.start:,}); "
            f"convert it, as by iconv -f latin1 -t utf-8",
            key,
        ) from error


def _prefix(key: str | None) -> str:
    return f"{key}: " if key else ""


def _problem(text: bytes) -> str | None:
    """Return "empty" or "binary" for what is no text, None for text."""
    return EMPTY if not text.strip() else BINARY if b"\0" in text else None
