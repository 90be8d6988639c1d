"""End a process as Python does, but without taking its objects apart one by one."""

import atexit
import gc
import io
import os
import sys
from contextlib import suppress

# The classes of files in C, whose buffers are written by `flush`. Others may write more when they are closed.
FILES = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom, io.BufferedRWPair, io.BufferedReader, io.FileIO)
IN_MEMORY = (io.StringIO, io.BytesIO)
BASE = io.FileIO.__mro__[-2]  # of all files; io.IOBase asks each class slowly, because it is an abstract base class


class QuickEnd:
    """Ends the process with the exit status `status`, unless Python has to do it: after an exception it is None."""

    def __init__(self) -> None:
        self.status: int | None = None

    def end(self) -> None:
        """Write what the buffers of open files hold, and end the process.

        Returns, so that Python ends the process, if a file cannot be written, and if files are open that write more
        when they are closed, such as archives.
        """
        if self.status is None:
            return
        objects = gc.get_objects()
        kinds = {kind for kind in set(map(type, objects)) if issubclass(kind, BASE)} - {*IN_MEMORY}
        if zipfile := sys.modules.get("zipfile"):
            kinds.add(zipfile.ZipFile)
        for file in [item for item in objects if type(item) in kinds]:
            if type(file) in FILES:
                try:
                    with suppress(ValueError):  # the file is closed, or another object has taken its buffer
                        file.flush()
                except OSError:
                    return
            elif not getattr(file, "closed", getattr(file, "fp", None) is None):
                return
        os._exit(self.status)


def quick_end() -> QuickEnd:
    """Return an object that ends the process after all functions that are registered with `atexit` from now on.

    Where functions have been registered before, by a profiler for example, Python ends the process, because it calls
    them last. Touches `atexit._ncallbacks`, because Python has no public way to count these functions. Where it is
    gone, Python ends the process.
    """
    end = QuickEnd()
    if getattr(atexit, "_ncallbacks", lambda: 1)() == 0:
        atexit.register(end.end)
    return end
