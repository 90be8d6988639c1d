"""A run in a process of its own: forked where all that it imports is there already."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from lamella.console import exit_status
from lamella.distributed import RANK_VARIABLES
from lamella.experiment.resume import resume_run
from lamella.interrupts import SIGNALS
from lamella.runs.reader import is_being_written, read_record
from lamella.sweeps.launch.forkserver import CONTEXT

OTHERS = (*RANK_VARIABLES, "HYDRA_FULL_ERROR")
WAIT = 0.1  # seconds between two looks at whether a run is free


def start_worker(paths: Sequence[Path], environ: Mapping[str, str], program: bool) -> Any:
    """A process, as multiprocessing has them, that begins the runs in `paths` or goes on with them.

    program: whether it is to be a program, which can start further processes with its command line; it has one run.
    """
    process: Any = CONTEXT.Process(target=_run, args=(list(map(str, paths)), worker_environment(environ), program))
    process.start()
    return process


def worker_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a run of its own."""
    return {name: value for name, value in environ.items() if name not in OTHERS}


def output_file(path: Path) -> Path:
    """The file for what a job prints; it stays where there is no log that says it."""
    return path.with_name(f"{path.name}.out")


def failure_cause(path: Path, status: int) -> str:
    """Why a job that has ended with `status` has not finished, in one line."""
    fields = read_record(path) if (path / "run.json").exists() else {}
    # Refused, it has still the record of before; what else became of its process, it may have failed before that.
    if status != 2 and fields.get("status") == "failed" and fields.get("error"):
        return " ".join(str(fields["error"]).split())
    known = {int(one): one.name for one in signal.Signals}
    if -status in known:
        hint = "; the machine may have run out of memory" if status == -signal.SIGKILL else ""
        return f"ended by {known[-status]}{hint}"
    if status - 128 in known:
        return f"interrupted by {known[status - 128]}"
    try:
        printed = output_file(path).read_text(errors="replace")
    except OSError:
        printed = ""
    said = [line for line in printed.splitlines() if line.startswith("error: ")]
    last = (printed.strip().splitlines() or [""])[-1]
    return said[-1].removeprefix("error: ") if said else f"exit status {status}: {last}".rstrip(": ")


def _run(paths: Sequence[str], environ: Mapping[str, str], program: bool) -> None:
    """What a process does: `lamella resume`, which begins a member of a sweep too, or the same for several as one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    os.environ.clear()
    os.environ.update(environ)
    files = []
    for file in map(output_file, map(Path, paths)):
        file.unlink(missing_ok=True)  # it may be a link
        files.append(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    for stream in (1, 2):
        os.dup2(files[0], stream)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    path, *others = paths
    if others:
        for one in paths:
            _wait(one)
        outputs = [os.fdopen(file, "w", buffering=1) for file in files]
        sys.exit(import_module("lamella.sweeps.fused.train").train_fused(list(map(Path, paths)), outputs))
    sys.exit(run_as_program(path, environ) if program else run_here(path))


def _wait(path: str) -> None:
    """A job of a sweep that was killed, or still waits in a cluster's queue, may be at work on it."""
    while is_being_written(Path(path)):
        time.sleep(WAIT)


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def run_here(path: str) -> int:
    """Begin the run in `path`, or go on with it, in this process; returns the exit status."""
    _wait(path)
    sys.argv = ["lamella", "resume", path]
    for name in OTHERS:
        os.environ.pop(name, None)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return exit_status(lambda: resume_run(Path(path)))
    except SystemExit as left:
        return int(left.code or 0)


def run_as_program(path: str, environ: Mapping[str, str]) -> int:
    """The same as a program, which can start further processes with its command line; hands signals on to it."""
    _wait(path)
    process = subprocess.Popen([sys.executable, "-m", "lamella", "resume", path], env=worker_environment(environ))
    for number in SIGNALS:
        signal.signal(number, lambda received, frame: process.send_signal(received))
    return process.wait()
