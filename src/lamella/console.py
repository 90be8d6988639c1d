"""Functions that print the output and the errors of a command and give its exit status."""

import builtins
import io
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, TextIO

from lamella.errors import RequestError
from lamella.tables import printable


def print(*values: object, sep: str = " ", end: str = "\n", file: TextIO | None = None, flush: bool = False) -> None:
    """Print like the function of Python, with a question mark in place of each control character.

    Records, configs and the names of files may come from somebody else, and contain codes that a terminal would obey.
    Every file of Lamella that prints imports this function.
    """
    builtins.print(printable(sep.join(map(str, values))), end=end, file=file, flush=flush)


def print_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the traceback of an error that nothing has caught, as `sys.excepthook`."""
    print("".join(traceback.format_exception(kind, error, trace)), end="", file=sys.stderr)


def prepare_streams() -> None:
    """Make sure that this process has standard streams, and that every text can be written to them.

    A stream that the caller has closed leads to /dev/null; otherwise the next file that is opened would take its place.
    A character that the encoding of the terminal lacks is replaced. Standard input holds names of files.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # os.open takes the lowest number that is free
    sys.stdin = sys.stdin or open(0, closefd=False, encoding="utf-8")  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False, encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False, encoding="utf-8")  # noqa: SIM115
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "replace"), (sys.stderr, "replace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def exit_status(command: Callable[[], int]) -> int:
    """Call `command` and return the exit status of the program.

    A wrong request and a path that cannot be used are printed as an `error: …` block, and the status is 2. With
    HYDRA_FULL_ERROR=1 they are raised instead.
    """
    try:
        status = command()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the program that reads the output has ended, as `head` does
        status = 0
    except (RequestError, OSError) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print_error(error)
        status = 2
    try:
        sys.stdout.flush()
    except OSError:
        # The pipe is closed, or the disk is full. Without this, Python would raise the error again at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


class CellText:
    """A text in the output of a notebook's cell that is replaced whenever another one is shown."""

    def __init__(self) -> None:
        from IPython import display

        self._handle: Any = display.DisplayHandle()  # type: ignore[no-untyped-call]
        self._show: Any = self._handle.display

    def show(self, text: str) -> None:
        """Show `text`, of one line or several, in place of the text before."""
        self._show({"text/plain": printable(text)}, raw=True)
        self._show = self._handle.update


def cell_text() -> CellText | None:
    """Return a new text in the output of the cell that is running, None outside of a notebook.

    A program that Jupyter's kernel has not started, such as IPython on a terminal, has no cell.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return CellText() if hasattr(shell, "kernel") else None


def print_error(error: Exception, file: TextIO | None = None) -> None:
    """Print the `error: …` block of a wrong request to `file`, by default to standard error."""
    print(f"error: {error}", file=file or sys.stderr)


@contextmanager
def tolerant_output(file: TextIO | None = None) -> Iterator[None]:
    """Let the program run on within the block when its output cannot be written, as after the reader has closed a pipe.

    file: a file to which everything that is printed is written too.
    """
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Tee(stream, file) for stream in streams)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


@contextmanager
def loading_notice() -> Iterator[None]:
    """Show on a terminal that torch is being loaded, until something else is printed or the block ends."""
    if not sys.stderr.isatty():
        yield
        return
    streams, shown, process = (sys.stdout, sys.stderr), True, os.getpid()

    def remove() -> None:
        nonlocal shown
        if shown and os.getpid() == process:  # a process that was forked for a job has other streams
            streams[1].write("\r\033[K")
            streams[1].flush()
        shown = False

    sys.stderr.write("loading torch…")
    sys.stderr.flush()
    sys.stdout, sys.stderr = _Notice(sys.stdout, remove), _Notice(sys.stderr, remove)
    try:
        yield
    finally:
        remove()
        sys.stdout, sys.stderr = streams


class _Notice:
    """A stream that calls `remove` before it is written to, and takes all else from the stream that it replaces."""

    def __init__(self, stream: TextIO, remove: Callable[[], None]) -> None:
        self._stream, self._remove = stream, remove

    def write(self, text: str) -> int:
        self._remove()
        return self._stream.write(text)

    def __getattr__(self, name: str) -> object:
        attribute: object = getattr(self._stream, name)
        return attribute


class _Tee:
    """A stream that writes to a second file too, and takes every other attribute from the first stream."""

    def __init__(self, stream: TextIO, file: TextIO | None) -> None:
        self._stream, self._file = stream, file

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        if self._file is not None:
            with suppress(OSError):  # a full disk is reported where the files of the run are written
                self._file.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> object:
        attribute: object = getattr(self._stream, name)
        return attribute
