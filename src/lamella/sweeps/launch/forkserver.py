"""Start the fork server: a process that has imported what jobs need, from which each local job is forked.

This file is the only one that touches the insides of multiprocessing. At import, this file imports neither torch nor
what imports it, so that a command can start the fork server early.
"""

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import pairwise
from multiprocessing import forkserver, resource_tracker, util
from multiprocessing.process import BaseProcess
from types import ModuleType

from lamella.console import print
from lamella.warm.process import is_fresh_fork

# The fork server imports these modules once for all jobs; the first one blocks signals.
PRELOADED = ["lamella.sweeps.launch.forked", "lamella.sweeps.launch.worker", "lamella.visuals"]
CONTEXT = multiprocessing.get_context("forkserver")
TRIED_PYTHONS = ((3, 11), (3, 12), (3, 13))  # versions whose insides `_fork` was tried with


def warm_up() -> None:
    """Start the fork server, and import in this process and in the fork server what jobs need.

    As a rule the fork server is a fork of this process, so that the imports are done once for both. It is an ordinary
    fork server, which does the imports again, where torch may have computed, or multiprocessing is not as expected.
    """
    CONTEXT.set_forkserver_preload(PRELOADED)
    resource_tracker.ensure_running()
    if "torch" in sys.modules and not is_fresh_fork():  # torch may have threads, which a fork would lack
        forkserver.ensure_running()
    elif not _insides_are_known():
        version = ".".join(map(str, sys.version_info[:2]))
        print(f"note: jobs start more slowly, because Lamella was not tried with Python {version}", file=sys.stderr)
        forkserver.ensure_running()
    else:
        for name in PRELOADED[1:]:
            import_module(name)
        _start_by_fork()


def start_process(target: Callable[..., None], arguments: tuple[object, ...]) -> BaseProcess:
    """Start a process that is a fork of the fork server and calls `target`, and return it.

    A process of multiprocessing runs the file of the main program again, to find functions in it. Without that file, a
    script that trains a sweep does not start the sweep once more in each job.
    """
    process, main = CONTEXT.Process(target=target, args=arguments), sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        process.start()
    finally:
        sys.modules["__main__"] = main
    return process


def _insides_are_known() -> bool:
    """Return True if multiprocessing is of a version that was tried and has the names that this file uses."""
    names = ((util, "spawnv_passfds"), (forkserver, "ForkServer"), (forkserver, "_forkserver"))
    return sys.version_info[:2] in TRIED_PYTHONS and all(hasattr(module, name) for module, name in names)


def _start_by_fork() -> None:
    """Start the fork server as a fork of this process.

    Touches `multiprocessing.util.spawnv_passfds`, the function by which multiprocessing starts the fork server as a
    new program: it is replaced by `_fork` for the duration of one call.
    """
    original = util.spawnv_passfds
    util.spawnv_passfds = _fork  # type: ignore[assignment]
    try:
        forkserver.ensure_running()
    finally:
        util.spawnv_passfds = original


def _fork(executable: bytes, arguments: Sequence[bytes | str], files: Sequence[int]) -> int:
    """Fork this process, run the program `python -c …` of the fork server in the child, and return the child's id.

    Touches `multiprocessing.forkserver._forkserver`, whose lock is held during the fork, and the program text itself.
    """
    sys.stdout.flush()  # otherwise parent and child would both write what is buffered
    sys.stderr.flush()
    number = os.fork()
    if not number:
        try:
            for low, high in pairwise([2, *sorted(files), os.sysconf("SC_OPEN_MAX")]):
                os.closerange(low + 1, high)
            # A new state with a free lock: a job that starts processes gets a fork server of its own.
            forkserver.ForkServer.__init__(forkserver._forkserver)
            exec(next(text for text in arguments if "forkserver import main" in str(text)), {})
        except Exception:
            print(traceback.format_exc(), end="", file=sys.stderr)
        finally:
            os._exit(0)
    return number
