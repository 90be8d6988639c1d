"""Signals that end a run: the first one after the step that is under way, a second one at once."""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

# Ctrl-C; what ends a process or a cluster's job; what Slurm can be told to send before it takes the machine away.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
ECHO = 0.5  # seconds; `timeout` and shells may send the same signal to the process and to its group


class Interrupted(BaseException):
    """A signal asked for the end, and all that was trained is saved. steps: of the optimizer, so far.

    No Exception, so that nothing swallows it.
    """

    def __init__(self, number: int, steps: int) -> None:
        super().__init__(number)
        self.number, self.steps = number, steps


class Interrupts:
    """In a `with`, notes the first signal in `received`, which is 0 before, and ends the process at a second one.

    at_once: called before the process ends so. notice: written to standard error when the first one comes. first:
    called then with its number.
    """

    def __init__(
        self, at_once: Callable[[], None], notice: str = "", first: Callable[[int], None] = lambda number: None
    ) -> None:
        self.at_once, self.notice, self.first, self.process = at_once, notice, first, os.getpid()
        self.received = 0
        self.time = 0.0
        self.before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupts":
        self.before = {number: signal.getsignal(number) for number in SIGNALS}
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def listen(self) -> None:
        """Take the signals; also after someone else, as Lightning does when it starts, has put a handler in place.

        Python lets nobody do so in another than the main thread, so there nobody has to be followed.
        """
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.process:
            return  # a forked worker, which ends when the process that it works for does
        now = time.monotonic()
        if not self.received:
            self.received, self.time = number, now
            self._say(self.notice.encode())
            self.first(number)
        elif now - self.time > ECHO:
            try:
                self.at_once()
            finally:
                if os.isatty(2):
                    self._say(b"\x1b[?25h")  # a bar hides the cursor
                os._exit(128 + number)

    def _say(self, text: bytes) -> None:
        with suppress(OSError):
            os.write(2, text)  # print may be what was interrupted
