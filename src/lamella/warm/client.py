"""Let the server of this user run the command of this process, and be to the shell what the command would be."""

import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress

from lamella.console import print
from lamella.warm.connection import connect, receive, send
from lamella.warm.identity import identity
from lamella.warm.process import describe_process

# A terminal sends the first to all processes of a command; the others are sent to one process, as a rule.
TO_THE_GROUP = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGWINCH)
TO_THE_PROCESS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def run_warm() -> int | None:
    """Run the command of this process in a fork of the server, and return its exit status.

    Returns None, with nothing done, where there is no server, where the server is of another version or environment,
    and where anything else about it is odd. The command runs in this process then. Where a signal ends the fork, the
    same signal ends this process.
    """
    if _in_background() or (connection := connect()) is None:
        return None
    with connection:
        try:
            fork = _start(connection)
        except (OSError, ValueError):
            fork = None
        if fork is None:
            return None
        for number in TO_THE_GROUP:
            _forward(number, fork, os.killpg)
        for number in TO_THE_PROCESS:
            _forward(number, fork, os.kill)
        _forward(signal.SIGTSTP, fork, _stop)
        try:
            connection.sendall(b"1")  # from here on the command is the fork's
            connection.settimeout(None)
            status = int(receive(connection)[0]["status"])
        except (OSError, ValueError, KeyError):
            print("error: the server of `lamella warm` was killed; the exit status is not known", file=sys.stderr)
            return 1
    return status if status >= 0 else _end_by_signal(-status)


def _in_background() -> bool:
    """Return True in a background job of a terminal, which the terminal stops if it reads, but not a fork elsewhere."""
    try:
        return os.tcgetpgrp(0) != os.getpgrp()
    except OSError:  # standard input is no terminal, or not that of this session
        return False


def _start(connection: socket.socket) -> int | None:
    """Let the server make a fork for this command, and return its process id, None where the server refuses.

    Raises OSError and ValueError.
    """
    process, files = describe_process()
    try:
        send(connection, {"ask": "run", "process": process, "identity": identity()}, files)
    finally:
        os.close(files[0])
    fork = receive(connection)[0].get("fork")
    return fork if isinstance(fork, int) else None


def _forward(number: signal.Signals, fork: int, deliver: Callable[[int, int], object]) -> None:
    """Let a signal to this process reach the fork, unless this process was started with it ignored."""

    def handle(*_: object) -> None:
        with suppress(ProcessLookupError):  # the fork has ended
            deliver(fork, number)

    if signal.getsignal(number) != signal.SIG_IGN:
        signal.signal(number, handle)


def _stop(fork: int, number: int) -> None:
    """Stop the fork and this process, as Ctrl-Z does, and continue the fork as soon as this process is continued."""
    handler = signal.signal(number, signal.SIG_DFL)
    try:
        os.killpg(fork, number)
        os.kill(os.getpid(), number)
    finally:
        signal.signal(number, handler)
    os.killpg(fork, signal.SIGCONT)


def _end_by_signal(number: int) -> int:
    """End this process by the signal that has ended the fork, and without a second core file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with suppress(OSError):  # SIGKILL cannot be handled
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    os.kill(os.getpid(), number)
    return 128 + number
