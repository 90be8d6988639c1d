"""Wait for commands, and fork a process for each."""

import fcntl
import json
import os
import select
import signal
import socket
import sys
import sysconfig
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress

from lamella.warm.address import socket_path
from lamella.warm.connection import SECONDS, Message, peer_user, receive, send
from lamella.warm.identity import Identity, difference
from lamella.warm.process import adopt

IDLE_SECONDS = 30 * 60.0  # how long a server waits for a command
LOOK_SECONDS = 60.0  # the time between two looks at whether the files of the environment are still there
VERSION = "a file of Lamella or of a library"


class Server:
    """The server of this user and environment, of which there is one.

    Raises BlockingIOError where another process is the server already, or is about to be.
    """

    def __init__(self) -> None:
        self.path = socket_path()
        self.lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        fcntl.lockf(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released however this process ends, and no fork has it
        os.truncate(self.lock, 0)
        os.write(self.lock, str(os.getpid()).encode())
        self.children: dict[int, socket.socket | None] = {}
        self.told_to_end = self.stopped = False

    def listen(self, identity: Identity, imported: Mapping[str, str]) -> None:
        """Create the socket, in place of one that a killed server has left.

        identity: that of this process before it has imported anything. imported: the variables that imports have set.
        """
        self.identity: Identity = json.loads(json.dumps(identity))
        self.imported, self.files = imported, _modification_times(_loaded_files())
        with suppress(FileNotFoundError):
            os.unlink(self.path)
        self.listener = socket.socket(socket.AF_UNIX)
        before = os.umask(0o177)
        self.listener.bind(self.path)
        os.umask(before)
        self.listener.listen()
        self.inode = os.stat(self.path).st_ino

    def serve(self) -> bool:
        """Fork a process for each command, until no command has come for IDLE_SECONDS.

        Returns twice, as a fork does: True in each fork, which has to run the command in `sys.argv`, and False in the
        server at its end, when all commands have ended.
        """
        wake, woken = os.pipe()
        for end in (wake, woken):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._tell_to_end)
        busy = time.monotonic()
        while not self.stopped or self.children:
            ready = self._wait(wake)
            self._collect_ended()
            self._end_abandoned(ready)
            if not self.stopped and self.listener.fileno() in ready and self._answer():
                return True
            if ready or self.children:
                busy = time.monotonic()
            idle = time.monotonic() - busy > IDLE_SECONDS
            if self.told_to_end or idle or (not ready and self._is_outdated()):
                self._stop()
        return False

    def _tell_to_end(self, *_: object) -> None:
        self.told_to_end = True

    def _wait(self, wake: int) -> set[int]:
        """Wait for a command, a signal or the end of a client, at most LOOK_SECONDS, and return what is ready."""
        poll = select.poll()
        poll.register(wake, select.POLLIN)
        if not self.stopped:
            poll.register(self.listener, select.POLLIN)
        for connection in filter(None, self.children.values()):
            poll.register(connection, 0)  # only tells that the other end has closed
        ready = {descriptor for descriptor, _ in poll.poll(LOOK_SECONDS * 1000)}
        if wake in ready:
            os.read(wake, 512)
        return ready

    def _collect_ended(self) -> None:
        """Tell the clients of the forks that have ended the exit status, negative for a signal."""
        while self.children:
            child, status = os.waitpid(-1, os.WNOHANG)
            if not child:
                return
            if connection := self.children.pop(child, None):
                with connection, suppress(OSError):
                    send(connection, {"status": os.waitstatus_to_exitcode(status)})

    def _end_abandoned(self, ready: set[int]) -> None:
        """End the forks whose client was killed, as SIGTERM ends a command."""
        for child, connection in self.children.items():
            if connection and connection.fileno() in ready:
                connection.close()
                self.children[child] = None
                os.kill(child, signal.SIGTERM)

    def _answer(self) -> bool:
        """Accept a connection, and do what is asked. Return True in a fork, which has to run a command."""
        files: list[int] = []
        try:
            connection, _ = self.listener.accept()
            connection.settimeout(SECONDS)
            if peer_user(connection) != os.getuid():
                raise PermissionError("the process at the other end is another user's")
            message, files = receive(connection)
            reason = VERSION if self._is_outdated() else difference(self.identity, message["identity"])
            if message["ask"] == "run" and not reason:
                return self._fork(connection, message["process"], files)
            if message["ask"] == "stop" or (message["ask"] == "run" and reason == VERSION):
                self._stop()
            with connection:
                send(connection, {"process": os.getpid(), "running": len(self.children), "difference": reason})
        except (OSError, ValueError, KeyError):  # the client has ended, or sends no message
            pass
        finally:
            for file in files:
                os.close(file)
        return False

    def _fork(self, connection: socket.socket, process: Message, files: list[int]) -> bool:
        """Fork a process for a command. Return True in the fork once the client lets it begin."""
        if child := os.fork():
            self.children[child] = connection
            return False
        for other in (self.listener, *filter(None, self.children.values())):
            other.detach()  # `adopt` closes the descriptors
        try:
            kept = socket.socket(fileno=adopt(process, files, connection.detach(), self.imported))
            kept.settimeout(None)
            send(kept, {"fork": os.getpid()})
            begins = bool(kept.recv(1))
        except Exception:  # for example a limit that cannot be raised again
            begins = False
        if not begins:  # the client runs the command itself
            os._exit(0)
        files.clear()
        kept.detach()  # stays open, so that the client sees the end of this process where the server is killed
        return True

    def _stop(self) -> None:
        """Take no more commands. Those that are running go on."""
        if not self.stopped:
            self.stopped = True
            with suppress(OSError):
                if os.stat(self.path).st_ino == self.inode:
                    os.unlink(self.path)
            self.listener.close()
            os.close(self.lock)

    def _is_outdated(self) -> bool:
        """Return True if a file that this process has imported was changed or deleted, or the socket was."""
        return _modification_times(self.files) != self.files or not os.path.exists(self.path)


def _loaded_files() -> list[str]:
    """Return the files whose change makes a difference: of each module outside of site-packages, and that directory.

    Whatever is installed, upgraded or removed changes the directory.
    """
    sites = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    known = tuple(f"{path}/" for path in (*sites, sysconfig.get_path("stdlib")))
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    own = {file for file in files if isinstance(file, str) and not file.startswith(known)}
    return sorted({*own, *sites, sys.executable})


def _modification_times(files: Iterable[str]) -> dict[str, int | None]:
    """Return when each file was changed, None for one that is not there."""
    found: dict[str, int | None] = {}
    for file in files:
        try:
            found[file] = os.stat(file).st_mtime_ns
        except OSError:
            found[file] = None
    return found
