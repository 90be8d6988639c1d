"""lamella warm: start a server that has imported everything, so that the commands after this one start at once.

lamella warm
lamella warm --stop
"""

import os
import stat
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress

from lamella.commands.parser import CommandParser
from lamella.console import print
from lamella.distributed import is_ranked
from lamella.errors import RequestError
from lamella.warm.address import is_own, socket_path
from lamella.warm.connection import ask
from lamella.warm.identity import identity
from lamella.warm.process import become_daemon
from lamella.warm.server import IDLE_SECONDS, Server

START_SECONDS = 60.0  # the time that another `lamella warm` may take to start
LONGEST = 103  # bytes in the path of a socket, on every system
READY, BUSY = "ready", "busy"


def main(arguments: list[str], command: Callable[[], int] = lambda: 0) -> int:
    """Start or stop the server of this user and environment, and return the exit status.

    command: runs the command in `sys.argv`. In each fork of the server, this function returns the status of that.
    """
    parser = CommandParser(__doc__)
    parser.add_argument("--stop", action="store_true", help="end the server; the commands that it runs go on")
    stop = parser.parse_args(arguments).stop
    if is_ranked():
        raise RequestError("LOCAL_RANK is set: start `lamella warm` by itself, and not with a launcher of processes")
    if stop:
        ended = ask("stop", identity())
        print(f"the server has ended{_running(ended)}" if ended else "no server is running")
        return 0
    if state := ask("state", identity()):
        if not state["difference"]:
            return _print_state(state["process"], "is running already")
        ask("stop", identity())
        print(f"a new server takes the place of the one that was running: {state['difference']} has changed")
    _create_directory()
    sys.stdout.flush()  # the forks would print it again
    reader, writer = os.pipe()
    if not os.fork():
        os.close(reader)
        return _serve(writer, command)
    os.close(writer)
    with open(reader) as pipe:
        answer = pipe.read()
    os.wait()
    if answer == BUSY:
        return _wait_for_other()
    if not answer.startswith(READY):
        print(f"error: the server could not start\n{answer}", file=sys.stderr)
        return 1
    return _print_state(int(answer.removeprefix(READY)), "is ready")


def _serve(told: int, command: Callable[[], int]) -> int:
    """Be the server, and in each of its forks the command; return the exit status of that.

    told: the end of a pipe, for READY and the process id, for BUSY, or for the traceback of an error.
    """
    known = identity()
    become_daemon(told)
    text = ""
    try:
        server, before = Server(), {*os.environ}
        from lamella.warm.preloaded import import_all

        import_all()
        server.listen(known, {name: os.environ[name] for name in os.environ.keys() - before})
        text = f"{READY}{os.getpid()}"
    except BlockingIOError:
        text = BUSY
    except Exception:
        text = traceback.format_exc()
    os.write(told, text.encode())
    os.close(told)
    if text.startswith(READY) and server.serve():
        return command()
    os._exit(0)


def _create_directory() -> None:
    """Create the directory of the socket. Raises RequestError where it is not this user's alone."""
    path = socket_path()
    directory = os.path.dirname(path)
    if len(os.fsencode(path)) > LONGEST:
        raise RequestError(f"XDG_RUNTIME_DIR: {path} is too long for a socket, which takes {LONGEST} bytes")
    with suppress(FileExistsError):
        os.mkdir(directory, 0o700)
    if not is_own(directory, stat.S_IFDIR | 0o700):
        raise RequestError(f"{directory} is not a directory that you alone may use; remove it, or set XDG_RUNTIME_DIR")


def _wait_for_other() -> int:
    """Wait for the server that another `lamella warm` starts at this moment, and return the exit status."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if state := ask("state", identity()):
            return _print_state(state["process"], "is running already")
        time.sleep(0.1)
    with open(f"{socket_path()}.lock") as file:
        process = file.read()
    raise RequestError(f"the server, process {process}, does not answer; to end it: kill -9 {process}")


def _print_state(process: int, what: str) -> int:
    """Print what the server serves, for how long, and how it is stopped; return the exit status."""
    print(
        f"the server for {sys.prefix} {what} (process {process}): commands that import torch start at once, until it "
        f"has run none for {IDLE_SECONDS / 60:.0f} minutes; to end it: lamella warm --stop"
    )
    return 0


def _running(state: dict[str, int]) -> str:
    """Return what is said of the commands that a server still runs."""
    return f", and {state['running']} of its commands are running" if state["running"] else ""
