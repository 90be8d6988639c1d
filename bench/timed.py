"""Time the epochs of a program from outside, in a process that is forked from one that has done the imports."""

import os
import pty
import re
import sys
import threading
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import kill

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command sets it; read when torch is imported
CONTEXT = kill.CONTEXT
CONTEXT.set_forkserver_preload(["lamella.experiment.session", "lamella.commands.train", "hydra.main", "torchvision"])
Values = dict[str, Any]


def child(
    function: Callable[..., None], arguments: Sequence[object], directory: Path, out: Connection, err: str
) -> None:
    """Call a function in this forked process, and print the largest memory that it has taken. err: a terminal."""
    import resource

    import torch

    os.chdir(directory)
    os.dup2(out.fileno(), 1)
    os.dup2(os.open(err, os.O_WRONLY), 2)
    sys.stdout, sys.stderr = (open(stream, "w", buffering=1, closefd=False) for stream in (1, 2))  # noqa: SIM115
    function(*arguments)
    peak = torch.cuda.max_memory_reserved()  # 0 without a GPU
    peak = peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print("peak", peak / 2**20, flush=True)


def timed_epochs(function: Callable[..., None], *arguments: object, directory: Path, limit: float) -> Values:
    """Call a function in a process of its own, and return the seconds of its epochs but the first, and more.

    Raises RuntimeError with the reason if the function fails or takes longer than `limit` seconds.
    """
    receiver, sender = CONTEXT.Pipe(duplex=False)
    master, slave = pty.openpty()  # standard error is a terminal, so that Lamella shows its progress bar
    errors = [b""]
    process = CONTEXT.Process(target=child, args=(function, arguments, directory, sender, os.ttyname(slave)))
    process.start()
    sender.close()
    threading.Thread(target=_keep_end, args=(master, errors), daemon=True).start()
    timer = threading.Timer(limit, process.kill)
    timer.start()
    ends, found = list[float](), Values(seconds=[], notes=[])
    with os.fdopen(os.dup(receiver.fileno())) as lines:
        for line in lines:
            if line.startswith("epoch "):
                ends.append(time.perf_counter())
            elif line.startswith("last "):
                found["last_epoch"] = line.removeprefix("last ").strip()
            elif line.startswith("peak "):
                found["peak_mib"] = round(float(line.split()[1]))
            elif "without" in line:  # a CUDA graph, chunks or direct steps
                found["notes"].append(line.strip())
    process.join()
    if not timer.is_alive():
        raise RuntimeError(f"took longer than {limit:.0f} s")
    timer.cancel()
    if process.exitcode:
        raise RuntimeError(reason(errors[0].decode(errors="replace")) or f"exit status {process.exitcode}")
    return {**found, "seconds": [end - start for start, end in pairwise(ends)]}


def _keep_end(master: int, kept: list[bytes]) -> None:
    """Read what is written to the terminal, so that the program never waits, and keep the last of it."""
    try:
        while part := os.read(master, 65536):
            kept[0] = (kept[0] + part)[-20000:]
    except OSError:
        pass  # the program has closed the terminal


def reason(text: str) -> str:
    """Return the line of an output that tells the reason of a failure, as far as can be seen."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("error: ")), lines[-1] if lines else "")[:300]
