"""What every command prints its errors with, and the exit status that it returns."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from lamella.errors import RequestError
from lamella.tables import printable


def exit_status(command: Callable[[], int]) -> int:
    """Call `command` and return the exit status of the program.

    A wrong request and a path that cannot be used are printed as an `error: …` block, and the status is 2. With
    HYDRA_FULL_ERROR=1 they are raised instead.
    """
    try:
        status = command()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of the output has closed it
        status = 0
    except (RequestError, OSError) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print_error(error)
        status = 2
    try:
        sys.stdout.flush()
    except OSError:
        # The reader is gone, or the disk is full. Python would complain once more as it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def print_error(error: Exception, file: TextIO | None = None) -> None:
    """Print the `error: …` block of a wrong request to `file`, by default to standard error."""
    print(f"error: {printable(str(error))}", file=file or sys.stderr)


@contextmanager
def tolerant_output(file: TextIO | None = None) -> Iterator[None]:
    """Within it, nothing ends because nobody reads along any more. file: gets a copy of what is printed."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Tee(stream, file) for stream in streams)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


class _Tee:
    """A stream that writes to a file as well, if there is one; for everything else it is the stream."""

    def __init__(self, stream: TextIO, file: TextIO | None) -> None:
        self._stream, self._file = stream, file

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        if self._file is not None:
            with suppress(OSError):  # the disk may be full: where it matters, that shows
                self._file.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
