"""Commands of Lamella in processes of their own, forked from one process that has imported everything.

A real `python -m lamella` spends five seconds on imports. Tests start a `RealProgram` only where they are about the
program itself. What a program starts with its own command line, the second process of a run, is forked too.
"""

import contextlib
import fcntl
import gc
import os
import pickle
import pty
import runpy
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from lamella.sweeps.launch import forkserver as launch

# Tests run beside each other: threads would wait for cores, and must not do so in loops. Read when torch is imported.
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
os.environ["PYTHONUNBUFFERED"] = "1"  # tests read what a program prints while it runs
# No server of `lamella warm` runs the commands of a test that has not started it.
RUNTIME = tempfile.TemporaryDirectory(prefix="lamella")
os.environ["XDG_RUNTIME_DIR"] = RUNTIME.name

CONTEXT = launch.CONTEXT
PRELOADED = [*launch.PRELOADED, "lamella.__main__", "lamella.commands.train", "preloaded"]
RUNNING: list["Program"] = []


def start_server() -> None:
    """Start the process from which programs and the jobs of sweeps are forked."""
    CONTEXT.set_forkserver_preload(PRELOADED)
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *([path] if path else [])])
    forkserver.ensure_running()
    del os.environ["PYTHONPATH"]
    if path:
        os.environ["PYTHONPATH"] = path


def end_all() -> None:
    """Kill the programs that still run, with all that they have started."""
    while RUNNING:
        program = RUNNING.pop()
        if program.poll() is None:
            program.kill_group()
            program.wait()
        for file in program.files:
            os.close(file)


class Program:
    """`lamella` with these arguments, or a Python script with its own, in a directory and in a session of its own."""

    def __init__(self, directory: Path, *arguments: str, stdout: int | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.files = os.memfd_create("out") if stdout is None else stdout, os.memfd_create("err")
        self.process = self.start(directory, arguments)
        self.pid: int = self.process.pid
        RUNNING.append(self)

    def start(self, directory: Path, arguments: tuple[str, ...]) -> Any:
        files = [f"/proc/{os.getpid()}/fd/{file}" for file in self.files]
        process: Any = CONTEXT.Process(target=self.run, args=(directory, arguments, dict(os.environ), files))
        process.start()
        return process

    @staticmethod
    def run(directory: Path, arguments: tuple[str, ...], environ: Mapping[str, str], files: list[str]) -> None:
        """Be the program, in the forked process."""
        _attach(directory, files)
        _python(arguments if arguments[0].endswith(".py") else ("-m", "lamella", *arguments), environ)

    @property
    def out(self) -> str:
        """What has been written to standard output so far."""
        return self._read(0)

    @property
    def err(self) -> str:
        """What has been written to standard error so far."""
        return self._read(1)

    def _read(self, number: int) -> str:
        file = self.files[number]
        return os.pread(file, os.fstat(file).st_size, 0).decode()

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal, or None while the process runs."""
        status: int | None = self.process.exitcode
        return status

    def ended(self, seconds: float) -> bool:
        """Wait so long, or until the process ends, and return whether it has ended."""
        self.process.join(seconds)
        return self.poll() is not None

    def wait(self, seconds: float = 120) -> int:
        """Return the exit status, and raise where the process does not end in time."""
        if not self.ended(seconds):
            self.kill_group()
            raise AssertionError(f"the process did not end within {seconds} seconds: {self.out[-2000:]}{self.err}")
        return self.poll() or 0

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def kill_group(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to the program and to all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)


def on_terminal(directory: Path, columns: int, *arguments: str) -> str:
    """Run `lamella` to its end, which has to be a good one, and return what it prints on a terminal of this width."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    program, printed = Program(directory, *arguments, stdout=slave), b""
    while program.poll() is None or select.select([master], [], [], 0)[0]:
        if select.select([master], [], [], 0.05)[0]:
            printed += os.read(master, 65536)
    os.close(master)
    assert program.wait() == 0, program.err
    return printed.decode().replace("\r\n", "\n")


class Script(Program):
    """A Python script that starts many Python programs, which are forks of it."""

    @staticmethod
    def run(directory: Path, arguments: tuple[str, ...], environ: Mapping[str, str], files: list[str]) -> None:
        _attach(directory, files)
        _python(arguments, environ, spare=False)


class Pytest(Program):
    """`python -m pytest` with these arguments."""

    @staticmethod
    def run(directory: Path, arguments: tuple[str, ...], environ: Mapping[str, str], files: list[str]) -> None:
        _attach(directory, files)
        _python(("-c", "import pytest, sys\nsys.exit(pytest.main(sys.argv[1:]))", *arguments), environ)


class RealProgram(Program):
    """The same, started as `python -m lamella`. options: what `subprocess.Popen` takes besides."""

    def __init__(self, directory: Path, *arguments: str, **options: Any) -> None:
        self.options = options
        super().__init__(directory, *arguments)

    def start(self, directory: Path, arguments: tuple[str, ...]) -> Any:
        options = {"stdout": self.files[0], "stderr": self.files[1], "start_new_session": True} | self.options
        return subprocess.Popen([sys.executable, "-m", "lamella", *arguments], cwd=directory, **options)

    def poll(self) -> int | None:
        status: int | None = self.process.poll()
        return status

    def ended(self, seconds: float) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        return self.poll() is not None


def run(directory: Path, *arguments: str, seconds: float = 300, kind: type[Program] = Program) -> str:
    """Run `lamella` in a directory to its end, which has to be a good one, and return what it printed."""
    program = kind(directory, *arguments)
    assert program.wait(seconds) == 0, program.out + program.err
    return program.out


def wait_until(condition: Callable[[], object], seconds: float, program: Program | None = None) -> None:
    """Wait until `condition` is true, and raise where that takes longer than `seconds` or `program` ends before."""
    deadline = time.monotonic() + seconds
    place = f"the condition in line {condition.__code__.co_firstlineno}"
    while not condition():
        if program and program.poll() is not None and not condition():
            printed = f"{program.out[-2000:]}{program.err[-2000:]}"
            raise AssertionError(f"the process ended with {program.poll()} before {place} was met: {printed}")
        if time.monotonic() > deadline:
            raise AssertionError(f"{place} is not met after {seconds} seconds")
        time.sleep(0.02)


def _attach(directory: Path, files: list[str]) -> None:
    """Give this process a session, a working directory, and files for what it prints."""
    os.setsid()
    os.chdir(directory)
    for stream, path in enumerate(files, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), stream)


def _python(arguments: Sequence[str], environ: Mapping[str, str], spare: bool = True) -> None:
    """Be `python` with these arguments: set up what a new interpreter would, and run the program.

    The first Python program that this one starts, the other rank of a run say, is a fork made before anything is
    computed. spare: make it now; False forks this process for each program that it starts.
    """
    from multiprocessing import util

    from lamella import __main__
    from lamella.interrupts import SIGNALS

    os.environ.clear()
    os.environ.update(environ)
    sys.stdout, sys.stderr = (open(stream, "w", buffering=1, closefd=False) for stream in (1, 2))  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    # Where this is a sweep, the server that it starts is forked, as that of a program is, and keeps signals away too.
    util.spawnv_passfds = launch._fork  # type: ignore[assignment]
    sys.modules.pop(PRELOADED[0], None)  # which keeps signals away, once more
    sys.modules["__main__"] = __main__  # what the other ranks of a run start is this module
    FORKS[os.getpid()] = [ForkedPython()] if spare else None
    subprocess.Popen = Popen  # type: ignore[assignment,misc]
    if arguments[0] == "-m":
        sys.argv = list(arguments[1:])
        sys.exit(__main__.main())
    elif arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        exec(arguments[1], {"__name__": "__main__"})
    else:
        sys.argv = list(arguments)
        runpy.run_path(arguments[0], run_name="__main__")


POPEN = subprocess.Popen
# The children that wait to become programs, by the process that starts these; None where each start forks it.
FORKS: dict[int, list["ForkedPython"] | None] = {}


class ForkedPython(POPEN[Any]):
    """A child that is a fork of this process, and that becomes the Python program that it is told to be."""

    def __init__(self, **options: Any) -> None:
        order, self.order = os.pipe()
        child = partial(_wait_for_program, order, _open_files() - {self.order})
        super().__init__([sys.executable], preexec_fn=child, restore_signals=False, **options)
        os.close(order)

    def become(self, arguments: list[str], environ: Mapping[str, str] | None, directory: str | Path | None) -> None:
        """Run `python` with these arguments in the child."""
        with os.fdopen(self.order, "wb") as file:
            pickle.dump((arguments, dict(environ or os.environ), directory or os.getcwd()), file)


class Popen(POPEN[Any]):
    """`subprocess.Popen` in forked programs: the Python programs that these start are forked as well."""

    def __new__(cls, args: list[str], **options: Any) -> POPEN[Any]:  # type: ignore[misc]
        forks = FORKS.get(os.getpid(), [])
        if args[0] != sys.executable or forks == [] or options.get("stdin") == subprocess.PIPE:  # a fork has no pipe
            return POPEN(args, **options)
        environ, directory = options.pop("env", None), options.pop("cwd", None)
        child = forks.pop() if forks else ForkedPython(**options)
        child.become(args[1:], environ, directory)
        return child


def _open_files() -> set[int]:
    return {int(file) for file in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{file}")}


def _wait_for_program(order: int, files: set[int]) -> None:
    """Wait in a forked child until it is told which Python program to be, be that, and end.

    files: those that stay open. `subprocess` waits until another one is closed.
    """
    for file in _open_files() - files:
        os.close(file)
    os.chdir("/")
    with os.fdopen(order, "rb") as orders:
        told = orders.read()
    if not told:  # the parent has ended
        os._exit(0)
    gc.enable()  # `subprocess` has disabled it
    arguments, environ, directory = pickle.loads(told)
    os.chdir(directory)
    program = [argument for argument in arguments if argument != "-P"]
    os._exit(CONTEXT.Process(target=_python, args=(program, environ))._bootstrap())  # type: ignore[attr-defined]
