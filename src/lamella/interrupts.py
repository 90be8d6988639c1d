"""Signals that end a run, the first one after the current step and the second one at once, and the end of a process."""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

# Ctrl-C; the usual signal to end a process; the signal that Slurm can be told to send before it stops a job; the signal
# that a terminal sends when it is closed.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
ECHO = 0.5  # seconds; `timeout` and shells may send the same signal to the process and to its group
EXIT_SECONDS = 60.0  # the time in which a process that has failed may clean up at its exit

Handler = Callable[[int, FrameType | None], object] | int | None  # as signal.getsignal returns it


class Interrupted(BaseException):
    """Raised after a signal asked for the end and everything that was trained has been saved.

    number: the number of the signal. steps: the optimizer steps that were taken. This is no Exception, so that no
    `except Exception` catches it.
    """

    def __init__(self, number: int, steps: int) -> None:
        super().__init__(number)
        self.number, self.steps = number, steps


class Interrupts:
    """Handles signals within a `with` block: stores the first one in `received`, and ends the process at the second.

    A program that has a handler of its own for Ctrl-C, such as Python's or that of a notebook, gets the second Ctrl-C
    instead. `received` is 0 until a signal comes. at_once: called at the second signal. notice: text that is written to
    standard error at the first signal. first: called at the first signal with its number.
    """

    def __init__(
        self, at_once: Callable[[], None], notice: str = "", first: Callable[[int], None] = lambda number: None
    ) -> None:
        self.at_once, self.notice, self.first, self.process = at_once, notice, first, os.getpid()
        self.received = 0
        self.time = 0.0
        self.before: dict[signal.Signals, Handler] = {}

    def __enter__(self) -> "Interrupts":
        self.before = {number: signal.getsignal(number) for number in SIGNALS}
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            set_handler(number, handler)

    def listen(self) -> None:
        """Install the signal handlers, again after Lightning has installed its own at the start of a fit.

        SIGHUP stays ignored in a process that `nohup` has started.
        """
        for number in SIGNALS:
            if number != signal.SIGHUP or self.before.get(number) != signal.SIG_IGN:
                set_handler(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: store the first one, and act on the second one, after at least ECHO seconds."""
        if os.getpid() != self.process:
            return  # this is a forked worker, which ends with the process that it works for
        now = time.monotonic()
        if not self.received:
            self.received, self.time = number, now
            self._write(self.notice.encode())
            self.first(number)
        elif now - self.time > ECHO:
            before = self.before.get(signal.SIGINT) if number == signal.SIGINT else None
            try:
                self.at_once()
            finally:
                if callable(before):
                    before(number, frame)
                else:
                    if os.isatty(2):
                        self._write(b"\x1b[?25h")  # shows the cursor, which a progress bar hides
                    os._exit(128 + number)

    def _write(self, text: bytes) -> None:
        """Write to standard error, and ignore that nobody reads it."""
        with suppress(OSError):
            os.write(2, text)  # not print, because the signal may have interrupted a print


def set_handler(number: signal.Signals, handler: Handler) -> None:
    """Set the handler of a signal in the main thread. Python allows handlers in no other thread.

    None, which `signal.getsignal` returns for a handler that was not set from Python, changes nothing.
    """
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(number, handler)


def limit_exit(status: int, from_now: bool = False) -> None:
    """End this process with `status` if it still runs EXIT_SECONDS after its main thread has ended.

    At its exit, Python waits for threads and worker processes, which after a failure may never end. The workers of data
    loaders are killed first, because nobody reads their batches any more. from_now: do not wait for the end of the main
    thread, because a process that multiprocessing has started waits for its workers there.
    """
    import multiprocessing  # here, so that a command without a run starts sooner

    def end() -> None:
        if not from_now:
            threading.main_thread().join()
        for worker in multiprocessing.active_children():
            if worker.daemon:
                worker.kill()
        time.sleep(EXIT_SECONDS)
        os._exit(status)

    threading.Thread(target=end, daemon=True).start()


def end_with_parent(end: Callable[[], object]) -> None:
    """Call `end` as soon as the process that has started this one, by multiprocessing, has ended, however it ended."""
    import multiprocessing

    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            end()

    threading.Thread(target=wait, daemon=True).start()
