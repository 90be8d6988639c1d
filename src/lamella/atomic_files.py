"""Functions that write a file completely or not at all, and never through a link."""

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` once the block has written it.

    The content is on the disk before the rename, so that a crash leaves either the old file or the new one. Where the
    block raises an error, the temporary file is removed and `path` stays as it was.
    """
    temporary = path.with_name(f".{path.name[:60]}.{os.getpid()}")  # shorter than 255 bytes in every encoding
    temporary.unlink(missing_ok=True)  # it may be a link
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Write `text` to `path`, so that a reader sees the old file or the new one, and never a part of it."""
    # Names of files may be no valid text.
    with replacing(path) as temporary, temporary.open("x", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)


def open_to_append(path: Path) -> TextIO:
    """Open a text file to add lines to it, and create it if there is none.

    Raises OSError where `path` is a link, and where it is anything else than a file: writing to a FIFO would wait.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "this is no ordinary file", str(path))
    return os.fdopen(descriptor, "a", 1, "utf-8", "backslashreplace")


def replace_link(source: Path, path: Path) -> None:
    """Make `path` a hard link to `source`, or a copy of it, in place of a file that `path` may have named before."""
    temporary = path.with_name(f".{path.name}")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:  # file systems without hard links give different errors, and a copy meets every other one too
        shutil.copyfile(source, temporary)
        sync(temporary)
    os.replace(temporary, path)
    temporary.unlink(missing_ok=True)  # os.replace does nothing where both names are links to one file


def sync(path: Path) -> None:
    """Write a file, or the entries of a directory, to the disk.

    A new or renamed file survives a power cut only after its directory is synced. Nothing is done on a file system that
    cannot sync a directory.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
    finally:
        os.close(descriptor)
