"""One attempt at a run, its first or one that goes on: what is printed, what the record says and how it ends."""

import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import yaml

from lamella.config.values import number_or_text, override_values
from lamella.distributed import RUN_DIRECTORY, rank
from lamella.errors import RequestError, first_line
from lamella.experiment.build import build_experiment
from lamella.experiment.experiment import Experiment
from lamella.experiment.fit import Outcome, fit
from lamella.experiment.report import epoch_line, result_lines
from lamella.experiment.requeue import SLURM_JOB, requeue_slurm_job
from lamella.interrupts import Interrupted, Interrupts
from lamella.runs.reader import read_run
from lamella.runs.writer import RunWriter
from lamella.training.task import NonFiniteLoss

NOTICE = "ending after this step, or after the validation that is under way; once more to end at once\n"


def numeric_environment(experiment: Experiment) -> dict[str, Any]:
    """What the bits of a result depend on beside the config."""
    accelerator = experiment.device.accelerator
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name() if accelerator == "cuda" else accelerator,
    }


def create_run(
    experiment: Experiment,
    make: Callable[[], Path],
    config: Mapping[str, Any],
    overrides: Sequence[str],
    **composed: Any,
) -> RunWriter:
    """A new run in the directory that `make` makes. Raises RequestError.

    composed: what its record says of the config beside it, as its reads and choices.
    """
    fields = {
        "name": experiment.name,
        "overrides": list(overrides),
        "seed": experiment.seed,
        "device": experiment.device.accelerator,
        # Made here, since it may be refused: before there is a directory.
        "parameters": sum(parameter.numel() for parameter in experiment.task.parameters()),
        "images": experiment.data.images,
        "metric": experiment.metric,
        "job": os.environ.get(SLURM_JOB),
    }
    return RunWriter.start(make(), yaml.safe_dump(config, sort_keys=False, allow_unicode=True), fields | composed)


def train_run(experiment: Experiment, record: RunWriter) -> int:
    """Train and test, keeping the record; returns the exit status, 0 or 1.

    Raises RequestError where nothing has been trained, the record being as it was before, and SystemExit with 128 and
    the signal's number where a signal ended it.
    """
    os.environ[RUN_DIRECTORY] = str(record.path)
    with run_interrupts([record]) as heard:
        return train_interruptibly(experiment, record, heard)


def run_interrupts(runs: Sequence[RunWriter]) -> Interrupts:
    """What hears the signals that end these runs, which are under way in this process."""

    def at_once() -> None:
        for record in runs:
            if record.fields["status"] == "running":
                record.close("interrupted")

    return Interrupts(at_once, NOTICE)


def train_interruptibly(experiment: Experiment, record: RunWriter, heard: Interrupts, *inexact: str) -> int:
    """As `attempt`, where someone else hears the signals. inexact: why the bits are not those of a run by itself."""
    experiment.device.configure_process()
    with record.log() as log:
        hook, threading.excepthook = threading.excepthook, lambda failed: _note(log, failed.exc_value)
        try:
            return _attempt(experiment, record, heard, log, inexact)
        finally:
            threading.excepthook = hook


def _attempt(
    experiment: Experiment, record: RunWriter, interrupts: Interrupts, log: Any, inexact: Sequence[str]
) -> int:
    def on_epoch(metrics: dict[str, float], outcome: Outcome) -> None:
        record.epoch(metrics, **vars(outcome))
        print(epoch_line(metrics, experiment.epochs))

    settings = {key: number_or_text(value) for key, value in override_values(record.fields["overrides"]).items()}
    print(f"Using {experiment.device.accelerator} device")
    try:
        record.update(status="running", finished=None, error=None, **_environment(experiment, record, inexact))
        outcome = fit(experiment, record.path, interrupts, on_epoch, settings)
        record.close("finished", **vars(outcome))
    except Interrupted as interrupted:
        record.close("interrupted", steps=interrupted.steps)
        print(f"interrupted; to go on: lamella resume {record.path}", file=sys.stderr)
        requeue_slurm_job(interrupted.number)
        raise SystemExit(128 + interrupted.number) from None
    except RequestError:
        record.refuse()
        raise
    except Exception as error:
        _note(log, error)
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            traceback.print_exc(file=sys.__stderr__)
        with suppress(OSError):
            record.close("failed", error=_cause(error, experiment.device.accelerator))
        print(
            f"error: {_cause(error, experiment.device.accelerator, first_line)}\n"
            f"  the whole of it: {record.path}/log.txt",
            file=sys.stderr,
        )
        if not isinstance(error, NonFiniteLoss):  # which would come again
            print(f"  to go on once that is mended: lamella resume {record.path}", file=sys.stderr)
        return 1
    print(result_lines(outcome.best_epoch, outcome.epochs, outcome.metrics, record.path))
    return 0


def _environment(experiment: Experiment, record: RunWriter, inexact: Sequence[str]) -> dict[str, Any]:
    """The fields of the record that say whether the bits are those of a run without interruption."""
    now, before = numeric_environment(experiment), record.before.get("environment", {})
    other = [f"{name} {now[name]} instead of {then}" for name, then in before.items() if now[name] != then]
    if other:
        print(f"with {', '.join(other)}: the result will not be, to the bit, that of a run without interruption")
    return {"environment": now, "inexact": list(dict.fromkeys([*record.before.get("inexact", []), *other, *inexact]))}


def _cause(error: Exception, device: str, text: Callable[[Exception], str] = str) -> str:
    """What went wrong: the exception, or that the device has no memory left, which torch says in several ways."""
    short = isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
    said = f"{type(error).__name__}: {text(error)}"
    return f"out of memory on {device}, a smaller data.batch_size takes less: {said}" if short else said


def _note(log: Any, error: BaseException | None) -> None:
    """Write a traceback into the log, if that can be: what is full may be this very disk."""
    with suppress(OSError):
        traceback.print_exception(error, file=log)


def join_run() -> int:
    """What a process does that Lightning has started beside the first one, which keeps the record: go by it."""
    if RUN_DIRECTORY not in os.environ:
        raise RequestError("LOCAL_RANK is set: start `lamella train` alone, it starts the other processes itself")
    path = Path(os.environ[RUN_DIRECTORY])
    try:
        _, config = read_run(path)
        with Interrupts(lambda: None) as interrupts:
            experiment = build_experiment(config)
            experiment.device.configure_process()
            fit(experiment, path, interrupts)
    except Interrupted:
        return 0  # any other status would end the first process before it has put all away
    except RequestError:
        return 2  # the first process says it
    except Exception as error:
        with (path / "log.txt").open("a") as log:
            traceback.print_exc(file=log)
        print(f"error: process {rank()}: {type(error).__name__}: {first_line(error)}", file=sys.stderr)
        return 1
    return 0
