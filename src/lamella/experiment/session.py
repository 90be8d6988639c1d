"""Train a run, from its start or from where it stopped: what is printed, what is recorded and how the run ends."""

import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TextIO

import torch
import yaml

from lamella.config.values import Config, number_or_text, override_values
from lamella.distributed import RUN_DIRECTORY, rank
from lamella.errors import RequestError, first_line
from lamella.experiment.build import prepare_experiment
from lamella.experiment.experiment import Experiment
from lamella.experiment.fit import Outcome, fit
from lamella.experiment.report import epoch_line, result_lines
from lamella.experiment.requeue import SLURM_JOB, requeue_slurm_job
from lamella.interrupts import Interrupted, Interrupts
from lamella.runs.reader import read_run
from lamella.runs.schema import RunRequest
from lamella.runs.writer import RunWriter
from lamella.tables import printable
from lamella.training.task import NonFiniteLoss

NOTICE = "the run ends after this step or the running validation; press Ctrl-C again to end it at once\n"


def create_run(
    experiment: Experiment,
    make_directory: Callable[[], Path],
    config: Config,
    overrides: Sequence[str],
    reads: dict[str, str],
    choices: dict[str, str],
    reproduces: str | None = None,
) -> RunWriter:
    """Create the run directory of an experiment and return its writer. Raises RequestError.

    make_directory: called once the data is read and the network is built, so that a request that is refused leaves no
    directory behind.
    reads, choices, reproduces: fields of the record, as in `RunRequest`.
    """
    experiment.data.setup("fit")
    request: RunRequest = {
        "name": experiment.name,
        "overrides": list(overrides),
        "seed": experiment.seed,
        "device": experiment.device.accelerator,
        "parameters": sum(parameter.numel() for parameter in experiment.task.parameters()),
        "images": experiment.data.images,
        "metric": experiment.metric,
        "job": os.environ.get(SLURM_JOB),
        "reads": reads,
        "choices": choices,
    }
    if reproduces is not None:
        request["reproduces"] = reproduces
    return RunWriter.start(make_directory(), yaml.safe_dump(config, sort_keys=False, allow_unicode=True), request)


def train_run(
    experiment: Experiment, writer: RunWriter, interrupts: Interrupts | None = None, inexact: Sequence[str] = ()
) -> int:
    """Train and test a run, record what happens, and return the exit status, 0 or 1.

    interrupts: the signal handler of the process where several runs share one, None where the run is alone in its
    process. inexact: why the bits of the result may differ from those of a run by itself.

    Raises RequestError where nothing has been trained, with the run directory as it was before, and SystemExit with
    128 plus the number of the signal where a signal has ended the training.
    """
    if interrupts is None:
        os.environ[RUN_DIRECTORY] = str(writer.path)  # for the processes of the other ranks
    with nullcontext(interrupts) if interrupts else run_interrupts([writer]) as signals, writer.log() as log:
        hook, threading.excepthook = threading.excepthook, lambda failure: _log_traceback(log, failure.exc_value)
        try:
            return _train(experiment, writer, signals, log, inexact)
        finally:
            threading.excepthook = hook


def run_interrupts(writers: Sequence[RunWriter]) -> Interrupts:
    """Return the signal handler of a process that trains these runs.

    A second signal ends the process at once; the runs are then recorded as interrupted.
    """

    def close_all() -> None:
        for writer in writers:
            if writer.fields["status"] == "running":
                writer.close(status="interrupted")

    return Interrupts(close_all, NOTICE)


def join_run() -> int:
    """Train as a rank above 0, from the run directory that rank 0 has written, and return the exit status.

    Lightning starts the processes of these ranks. Raises RequestError where somebody else has started this one.
    """
    if RUN_DIRECTORY not in os.environ:
        raise RequestError("LOCAL_RANK is set: start `lamella train` alone, it starts the other processes itself")
    path = Path(os.environ[RUN_DIRECTORY])
    try:
        _, config = read_run(path)
        with Interrupts(lambda: None) as interrupts:
            fit(prepare_experiment(config), path, interrupts)
    except Interrupted:
        return 0  # with any other status, Lightning would end rank 0 before it has saved everything
    except RequestError:
        return 2  # rank 0 prints the error
    except Exception as error:
        with (path / "log.txt").open("a") as log:
            traceback.print_exc(file=log)
        print(f"error: process {rank()}: {type(error).__name__}: {first_line(error)}", file=sys.stderr)
        return 1
    return 0


def numeric_environment(experiment: Experiment) -> dict[str, object]:
    """Return what the bits of a result depend on beside the config."""
    accelerator = experiment.device.accelerator
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name() if accelerator == "cuda" else accelerator,
    }


def _train(
    experiment: Experiment, writer: RunWriter, interrupts: Interrupts, log: TextIO, inexact: Sequence[str]
) -> int:
    """Train and test, and record the outcome. Returns and raises as `train_run` does."""

    def on_epoch(metrics: dict[str, float], outcome: Outcome) -> None:
        writer.epoch(metrics, **outcome)
        print(epoch_line(metrics, experiment.epochs))

    settings = {key: number_or_text(text) for key, text in override_values(writer.fields["overrides"]).items()}
    print(f"Using {experiment.device.accelerator} device")
    print(printable(experiment.data.summary()))
    for note in experiment.data.notes():
        print(f"note: {printable(note)}", file=sys.stderr)
    try:
        _record_start(experiment, writer, inexact)
        outcome = fit(experiment, writer.path, interrupts, on_epoch, settings)
        writer.close(status="finished", **outcome)
    except Interrupted as interrupted:
        writer.close(status="interrupted", steps=interrupted.steps)
        print(f"interrupted; to go on: lamella resume {writer.path}", file=sys.stderr)
        requeue_slurm_job(interrupted.number)
        raise SystemExit(128 + interrupted.number) from None
    except RequestError:
        writer.roll_back()
        raise
    except Exception as error:
        _record_failure(error, experiment.device.accelerator, writer, log)
        return 1
    print(result_lines(outcome["best_epoch"], outcome["epochs"], outcome["metrics"], writer.path))
    return 0


def _record_start(experiment: Experiment, writer: RunWriter, inexact: Sequence[str]) -> None:
    """Record that the run is running, and why its bits may differ from those of a run without interruption."""
    now, before, reasons = numeric_environment(experiment), dict[str, object](), list[str]()
    if writer.before:
        before, reasons = writer.before.get("environment", {}), writer.before.get("inexact", [])
    changes = [f"{name} {now.get(name)} instead of {value}" for name, value in before.items() if now.get(name) != value]
    if changes:
        print(f"with {', '.join(changes)}: the result will not equal, bit for bit, that of a run without interruption")
    reasons = list(dict.fromkeys([*reasons, *changes, *inexact]))
    writer.update(status="running", finished=None, error=None, environment=now, inexact=reasons)


def _record_failure(error: Exception, device: str, writer: RunWriter, log: TextIO) -> None:
    """Record and print why the training has failed, and print how to continue it."""
    _log_traceback(log, error)
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        traceback.print_exc(file=sys.__stderr__)
    with suppress(OSError):  # the disk may be full
        writer.close(status="failed", error=_cause(error, device, str(error)))
    print(
        f"error: {_cause(error, device, first_line(error))}\n  the full traceback: {writer.path}/log.txt",
        file=sys.stderr,
    )
    if not isinstance(error, NonFiniteLoss):  # a resumed run would come to the same loss
        print(f"  to go on once that is fixed: lamella resume {writer.path}", file=sys.stderr)


def _cause(error: Exception, device: str, message: str) -> str:
    """Return the type and the message of an error, after a hint where memory ran out."""
    # torch reports in several ways that memory has run out.
    exhausted = isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
    cause = f"{type(error).__name__}: {message}"
    return f"out of memory on {device}, a smaller data.batch_size takes less: {cause}" if exhausted else cause


def _log_traceback(log: TextIO, error: BaseException | None) -> None:
    """Write a traceback into the log, unless the disk of the log is full."""
    with suppress(OSError):
        traceback.print_exception(error, file=log)
