"""Find the socket of this user's server for this environment.

Each command that needs torch imports this file, so that it imports nothing that takes time.
"""

import os
import stat
import sys
import zlib

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def socket_path() -> str:
    """Return the path of the socket, whose name stands for the environment and the copy of Lamella in it.

    Its directory is `lamella` in $XDG_RUNTIME_DIR, or without that `lamella-UID` in the directory of temporary files.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    temporary = os.environ.get("TMPDIR") or "/tmp"
    directory = f"{runtime}/lamella" if os.path.isdir(runtime) else f"{temporary}/lamella-{os.getuid()}"
    environment = zlib.crc32(os.fsencode(f"{sys.prefix}\n{PACKAGE}"))
    return f"{directory}/warm-{environment:08x}"


def is_private(path: str) -> bool:
    """Return True if the socket and its directory belong to this user, and nobody else may use either."""
    return is_own(os.path.dirname(path), stat.S_IFDIR | 0o700) and is_own(path, stat.S_IFSOCK | 0o600)


def is_own(path: str, mode: int) -> bool:
    """Return True if a file of this type, with these permissions, is there and belongs to this user."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    # In a directory with the setgid bit, a new directory has this bit too.
    return status.st_mode & ~stat.S_ISGID == mode and status.st_uid == os.getuid() == os.geteuid()
