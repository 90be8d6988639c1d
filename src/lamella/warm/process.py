"""Hand over to a forked process what a process that the shell starts inherits and is given."""

import fcntl
import importlib.util
import io
import os
import resource
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import ModuleType

from lamella.warm.connection import Message

LIMITS = [name for name in dir(resource) if name.startswith("RLIMIT_")]
PYTHONS_OWN = (signal.SIGPIPE, signal.SIGXFSZ)  # signals that Python ignores by itself
UNCHANGEABLE = (signal.SIGKILL, signal.SIGSTOP)

_begun: tuple[int, int] | None = None  # the process in which `adopt` was called, and the threads that it had then


def is_fresh_fork() -> bool:
    """Return True in a fork of the server that has started no thread yet, so that it can be forked again."""
    return _begun == (os.getpid(), _count_threads()) and _count_threads() > 0


def describe_process() -> tuple[Message, list[int]]:
    """Return what `adopt` gives to a fork, and the descriptors for it: the working directory and all open files.

    The files are those that a program started from this process would inherit, with a pipe of `<(…)` among them.
    Raises OSError.
    """
    main, umask = sys.modules["__main__"], os.umask(0o077)
    os.umask(umask)
    files = [0, 1, 2]
    for number in sorted(map(int, os.listdir("/dev/fd"))):
        with suppress(OSError):  # the descriptor by which the directory was read
            if number > 2 and os.get_inheritable(number):
                files.append(number)
    message = {
        "argv": sys.argv,
        "original": sys.orig_argv,
        "path": sys.path,
        "main": [getattr(main, "__file__", None), main.__spec__ and main.__spec__.name],
        "environ": dict(os.environ),
        "umask": umask,
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "limits": {name: resource.getrlimit(getattr(resource, name)) for name in LIMITS},
        "ignored": [number for number in signal.valid_signals() if signal.getsignal(number) == signal.SIG_IGN],
        "blocked": [*signal.pthread_sigmask(signal.SIG_BLOCK, [])],
        "files": files,
    }
    return message, [os.open(".", getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY), *files]


def adopt(given: Message, files: Sequence[int], kept: int, imported: Mapping[str, str]) -> int:
    """Make this process what `describe_process` has described, and return the new number of the descriptor `kept`.

    files: the descriptors that were handed over. kept: one more that stays open. imported: environment variables that
    libraries set when they are imported. Raises OSError and ValueError where the system does not allow it.
    """
    global _begun
    _begun = os.getpid(), _count_threads()
    signal.set_wakeup_fd(-1)
    kept = _take_files(given["files"], files, kept)
    os.setpgid(0, 0)  # the terminal's signals to the command come to all that it starts
    for name, limit in given["limits"].items():
        if resource.getrlimit(number := getattr(resource, name)) != tuple(limit):
            resource.setrlimit(number, tuple(limit))
    os.umask(given["umask"])
    os.setpriority(os.PRIO_PROCESS, 0, given["nice"])
    os.environ.clear()
    os.environ.update({**imported, **given["environ"]})
    time.tzset()
    sys.argv, sys.orig_argv, sys.path = given["argv"], given["original"], given["path"]
    sys.modules["__main__"] = _main_module(*given["main"])
    importlib.invalidate_caches()
    _open_streams()
    _forget_random_numbers()
    for signal_number in signal.valid_signals() - {*UNCHANGEABLE}:
        ignored = signal_number in given["ignored"] or signal_number in PYTHONS_OWN
        with suppress(OSError, ValueError):  # those that the C library keeps for itself
            signal.signal(signal_number, signal.SIG_IGN if ignored else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, given["blocked"])
    return kept


def _count_threads() -> int:
    """Return the number of threads of this process, those of libraries in C among them, and 0 where it is not known."""
    return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0


def become_daemon(kept: int) -> None:
    """Leave the session, the working directory and all open files of the caller except the descriptor `kept`."""
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    os.umask(0o077)
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    for number in map(int, os.listdir("/dev/fd")):
        if number > 2 and number != kept:
            with suppress(OSError):
                os.close(number)


def _take_files(numbers: Sequence[int], files: Sequence[int], kept: int) -> int:
    """Enter the working directory, give each file its number, and close everything else but `kept`, which moves."""
    os.fchdir(files[0])
    above = max(numbers) + 1  # where no file that is moved takes the number of another one
    moved = [fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, above) for file in (kept, *files[1:])]
    for number in map(int, os.listdir("/dev/fd")):
        if number not in moved:
            with suppress(OSError):
                os.close(number)
    for file, number in zip(moved[1:], numbers, strict=True):
        os.dup2(file, number)
        os.close(file)
    return moved[0]


def _main_module(file: str | None, name: str | None) -> ModuleType:
    """Return a module that tells, as the module of the program, how the program is started once more."""
    module = ModuleType("__main__")
    if file:
        module.__file__ = file
    if name:  # `python -m`
        module.__spec__ = importlib.util.find_spec(name)
    return module


def _open_streams() -> None:
    """Open the standard streams as Python does at its start, where buffers depend on what is a terminal."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        before = getattr(sys, name)
        unbuffered = number > 0 and isinstance(before.buffer, io.RawIOBase)  # python -u
        raw = io.FileIO(number, "wb" if number else "rb", closefd=False)
        raw.name = f"<{name}>"
        binary = raw if unbuffered else io.BufferedWriter(raw) if number else io.BufferedReader(raw)
        lines = not unbuffered and (number == 2 or raw.isatty())
        stream = io.TextIOWrapper(binary, before.encoding, before.errors, "\n", lines, before.write_through)
        vars(stream)["mode"] = before.mode
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _forget_random_numbers() -> None:
    """Seed what a new process seeds by itself; Python's own generator does it in each fork, and torch never."""
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
    if multiprocessing := sys.modules.get("multiprocessing"):
        multiprocessing.current_process().authkey = os.urandom(32)
    if tempfile := sys.modules.get("tempfile"):
        vars(tempfile)["tempdir"] = None
