"""The process from which the jobs of a sweep are forked."""

import multiprocessing
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise
from multiprocessing import forkserver, resource_tracker, util
from typing import Any

# Imported once, for all processes that are forked from there.
PRELOADED = [
    "lamella.sweeps.launch.forked",
    "lamella.experiment.resume",
    "lamella.experiment.session",
    "lamella.visuals",
    "lamella.sweeps.fused.train",
]
CONTEXT = multiprocessing.get_context("forkserver")


def warm_up() -> None:
    """Import what the jobs need, here too where that is still to be done, so that it is done once."""
    CONTEXT.set_forkserver_preload(PRELOADED)
    resource_tracker.ensure_running()
    program = util.spawnv_passfds
    if "torch" not in sys.modules:  # otherwise it may have threads, which a fork would lack
        for name in PRELOADED[1:]:
            import_module(name)
        util.spawnv_passfds = _fork  # type: ignore[assignment]
    try:
        forkserver.ensure_running()
    finally:
        util.spawnv_passfds = program


def _fork(executable: bytes, arguments: Sequence[Any], files: Sequence[int]) -> int:
    """What multiprocessing would start as a program, `python -c …`, as a fork of this process; returns its number."""
    sys.stdout.flush()  # or it would be written by each
    sys.stderr.flush()
    number = os.fork()
    if not number:
        try:
            for low, high in pairwise([2, *sorted(files), os.sysconf("SC_OPEN_MAX")]):
                os.closerange(low + 1, high)
            server: Any = forkserver
            server._forkserver.__init__()  # its lock is held, and jobs that start processes have a server of their own
            exec(next(text for text in arguments if "forkserver import main" in str(text)), {})
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(0)
    return number
