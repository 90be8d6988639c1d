"""Files that are written as a whole or not at all."""

import os
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Write a whole file or nothing: to a neighbour first, then renamed over it."""
    neighbour = path.with_name(f".{path.name}.{os.getpid()}")
    neighbour.unlink(missing_ok=True)  # it may be a link
    try:
        with neighbour.open("w", errors="surrogateescape") as file:  # names of files may be no text
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(neighbour, path)
    finally:
        neighbour.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory outlive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_link(source: Path, path: Path) -> None:
    """Give a file a second name, in place of what had it."""
    neighbour = path.with_name(f".{path.name}")
    neighbour.unlink(missing_ok=True)
    os.link(source, neighbour)
    os.replace(neighbour, path)
    neighbour.unlink(missing_ok=True)  # replacing does nothing where both are names of one file already
