"""Run jobs in the process that was started for them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from lamella.console import exit_status
from lamella.distributed import RANK_VARIABLES
from lamella.experiment.resume import resume_run
from lamella.interrupts import SIGNALS, end_with_parent, limit_exit, set_handler
from lamella.runs.reader import is_being_written, read_record
from lamella.sweeps.fused.train import train_fused

REMOVED_VARIABLES = (*RANK_VARIABLES, "HYDRA_FULL_ERROR")
POLL = 0.1  # seconds between two checks of whether another process still writes a run


def run_worker(paths: Sequence[Path], environ: Mapping[str, str], program: bool, fused: bool) -> None:
    """Run the jobs in the directories `paths`, and end this process with their exit status.

    This is the main function of a process that the fork server has forked. program: run a single job as a program of
    its own, because its Trainer starts further processes with the command line of the program. fused: train the jobs as
    one fused program.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    os.environ.clear()
    os.environ.update(environ)
    files = []
    for file in map(output_file, paths):
        file.unlink(missing_ok=True)  # the file may be a link
        files.append(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    for stream in (1, 2):
        os.dup2(files[0], stream)
    end_with_parent(lambda: os.kill(os.getpid(), signal.SIGTERM))
    if fused:
        for path in paths:
            _wait_until_free(path)
        status = train_fused(paths, [os.fdopen(file, "w", 1, "utf-8", "backslashreplace") for file in files])
    else:
        status = run_as_program(paths[0], environ) if program else run_here(paths[0])
    if status:
        limit_exit(status, from_now=True)
    sys.exit(status)


def worker_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables for a job, without those that describe the process that starts the job."""
    return {name: value for name, value in environ.items() if name not in REMOVED_VARIABLES}


def output_file(path: Path) -> Path:
    """Return the file for the output of the job in `path`. It is kept where log.txt does not show the failure."""
    return path.with_name(f"{path.name}.out")


def failure_cause(path: Path, status: int) -> str:
    """Return in one line why the job in `path`, which ended with exit status `status`, has not finished."""
    record = read_record(path) if (path / "run.json").exists() else None
    # With status 2 the job was refused, so that the record is that of an earlier try.
    if record and status != 2 and record["status"] == "failed" and record.get("error"):
        return " ".join(str(record["error"]).split())
    names = {int(number): number.name for number in signal.Signals}
    if -status in names:
        hint = "; the machine may have run out of memory" if status == -signal.SIGKILL else ""
        return f"ended by {names[-status]}{hint}"
    if status - 128 in names:
        return f"interrupted by {names[status - 128]}"
    try:
        lines = output_file(path).read_text("utf-8", "replace").strip().splitlines()
    except OSError:
        lines = []
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if errors:
        return errors[-1]
    return f"exit status {status}: {lines[-1]}" if lines else f"exit status {status}"


def run_here(path: Path) -> int:
    """Start or resume the run in `path` in this process, and return the exit status."""
    _wait_until_free(path)
    sys.argv = ["lamella", "resume", str(path)]
    for name in REMOVED_VARIABLES:
        os.environ.pop(name, None)
    set_handler(signal.SIGINT, signal.SIG_DFL)
    try:
        return exit_status(lambda: resume_run(path))
    except SystemExit as end:
        return int(end.code or 0)


def run_as_program(path: Path, environ: Mapping[str, str]) -> int:
    """Start or resume the run in `path` with the command `lamella resume`, and return the exit status.

    The command can start further processes with its own command line. Signals are sent on to the command.
    """
    _wait_until_free(path)
    command = [sys.executable, "-P", "-m", "lamella", "resume", str(path)]
    process = subprocess.Popen(command, env=worker_environment(environ))
    for number in SIGNALS:
        signal.signal(number, lambda received, frame: process.send_signal(received))
    return process.wait()


def _wait_until_free(path: Path) -> None:
    """Wait until no other process writes the run: a job of a killed sweep, or one that Slurm still runs."""
    while is_being_written(path):
        time.sleep(POLL)
