"""Connect to the server of this user, and exchange messages with the process at the other end of a socket."""

import json
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from lamella.warm.address import is_private, socket_path
from lamella.warm.identity import Identity

SECONDS = 2.0  # the time in which a server answers, also on a busy machine; after that the command runs without it
MOST_FILES = 250  # the largest number of descriptors in one message; Linux allows 253

Message = dict[str, Any]


def connect() -> socket.socket | None:
    """Return a connection to the server of this user, or None where there is none that can be trusted."""
    path = socket_path()
    if not is_private(path):
        return None
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(SECONDS)
    try:
        connection.connect(path)
        if peer_user(connection) == os.getuid():
            return connection
    except OSError:  # nobody listens, or the path is too long for a socket
        pass
    connection.close()
    return None


def peer_user(connection: socket.socket) -> int:
    """Return the user id of the process at the other end. Raises OSError where the system does not tell it."""
    if hasattr(socket, "SO_PEERCRED"):  # Linux: struct ucred with pid, uid and gid
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int.from_bytes(credentials[4:8], sys.byteorder)
    if sys.platform == "darwin":  # LOCAL_PEERCRED is 1: struct xucred, which begins with a version and the uid
        return int.from_bytes(connection.getsockopt(0, 1, 76)[4:8], sys.byteorder)
    raise OSError("this system does not tell who is at the other end of a socket")


def send(connection: socket.socket, message: Message, files: Sequence[int] = ()) -> None:
    """Send a message, with descriptors of open files. Raises OSError."""
    text = json.dumps(message).encode()
    socket.send_fds(connection, [len(text).to_bytes(4, "big")], files)
    connection.sendall(text)


def receive(connection: socket.socket) -> tuple[Message, list[int]]:
    """Return the next message, and the descriptors that came with it.

    Raises OSError where the other end has closed or does not answer in time, and ValueError where it sends no message.
    """
    head, files, _, _ = socket.recv_fds(connection, 4, MOST_FILES)
    try:
        size = int.from_bytes(head + _read(connection, 4 - len(head)), "big")
        message = json.loads(_read(connection, size))
        if not isinstance(message, dict):
            raise ValueError("this is no message")
        return message, files
    except (OSError, ValueError):
        for file in files:
            os.close(file)
        raise


def _read(connection: socket.socket, size: int) -> bytes:
    """Return so many bytes. Raises OSError where the other end closes before."""
    parts = []
    while size:
        part = connection.recv(min(size, 1 << 16))
        if not part:
            raise ConnectionResetError("the other end has closed")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def ask(what: str, identity: Identity) -> Message | None:
    """Return what the server answers to "state" or "stop", None where there is no server or it does not answer."""
    if connection := connect():
        with connection, suppress(OSError, ValueError):
            send(connection, {"ask": what, "identity": identity})
            return receive(connection)[0]
    return None
