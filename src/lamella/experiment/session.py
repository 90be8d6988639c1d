"""Train a run, from its start or from where it stopped: what is printed, what is recorded and how the run ends."""

import json
import math
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TextIO

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException

from lamella.atomic_files import open_to_append
from lamella.config.value_text import parse_value
from lamella.config.values import Config, override_values
from lamella.console import print
from lamella.data import RunData
from lamella.data.environment import environment_changes, numeric_environment
from lamella.data.folds import TEST
from lamella.distributed import RUN_DIRECTORY, rank
from lamella.errors import RequestError, first_line, own_frames
from lamella.experiment.build import prepare_experiment
from lamella.experiment.experiment import Experiment
from lamella.experiment.fit import fit
from lamella.experiment.model import read_encoder
from lamella.experiment.outcome import Outcome
from lamella.experiment.report import epoch_line, result_lines
from lamella.experiment.requeue import SLURM_JOB, requeue_slurm_job
from lamella.interrupts import Interrupted, Interrupts, limit_exit
from lamella.runs.files import FOLDS, PREPROCESSING
from lamella.runs.identity import CHANGEABLE_KEYS, run_identity
from lamella.runs.listing import Record
from lamella.runs.reader import read_run
from lamella.runs.schema import RunRequest
from lamella.runs.writer import RunWriter
from lamella.tables import format_csv
from lamella.tracking.following import following
from lamella.training.compiled_steps import compiler
from lamella.training.device import TIMED, is_out_of_memory
from lamella.training.machine_use import MachineUse, RunUse
from lamella.training.non_finite import NonFiniteLoss
from lamella.training.progress import progress_bar

NOTICE = "the run ends after this step or the running validation; press Ctrl-C again to end it at once\n"
# The settings that HPARAMS shows of every run, whether they were overridden or not.
SHOWN = ("optimizer.lr", "data.batch_size", "seed", "trainer.max_epochs")


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
        "parameters": sum(parameter.numel() for parameter in experiment.module.parameters()),
        "images": experiment.data.images,
        "metric": experiment.objective.metric,
        "lower_is_better": experiment.lower_is_better,
        "job": os.environ.get(SLURM_JOB),
        "reads": reads,
        "choices": choices,
    }
    if experiment.weights:
        request["weights"] = experiment.weights.record()
    if reproduces is not None:
        request["reproduces"] = reproduces
    return RunWriter.start(make_directory(), experiment.completed(config), request, _data_files(experiment.data))


def _data_files(data: RunData) -> dict[str, str]:
    """Return the files that say what a run has made of its data: what an encoder has learned, and the folds."""
    files = {}
    if data.encoder is not None:
        files[PREPROCESSING] = json.dumps(data.encoder.state(), indent=1) + "\n"
    if data.folds is not None:
        folds = ("test" if fold == TEST else fold for fold in data.folds.numbers.tolist())
        files[FOLDS] = format_csv([["sample", "fold"], *enumerate(folds)])
    return files


def train_run(
    experiment: Experiment,
    writer: RunWriter,
    interrupts: Interrupts | None = None,
    inexact: Sequence[str] = (),
    machine: MachineUse | None = None,
) -> int:
    """Train and test a run, record what happens, and return the exit status, 0 or 1.

    interrupts, machine: the signal handler and the measurement of the process where several runs share one, None where
    the run is alone in its process. inexact: why the bits of the result may differ from those of a run by itself.

    Raises RequestError where nothing has been trained, with the run directory as it was before, and SystemExit with
    128 plus the number of the signal where a signal has ended the training.
    """
    if interrupts is None:
        os.environ[RUN_DIRECTORY] = str(writer.path)  # for the processes of the other ranks
    with (
        following(writer.path, lambda: {writer.path: writer.config.get("tracking") or {}}),
        nullcontext(interrupts) if interrupts else run_interrupts([writer]) as signals,
        writer.log() as log,
    ):
        hook, threading.excepthook = threading.excepthook, lambda failure: _log_traceback(log, failure.exc_value)
        try:
            with nullcontext(machine) if machine else MachineUse(experiment.device.accelerator) as measured:
                use = RunUse(measured, writer.before.get("usage", {}) if writer.before else {})
                return _train(experiment, writer, signals, log, inexact, use)
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
    threading.Thread(target=_end_with_rank_0, args=(os.getppid(),), daemon=True).start()
    try:
        fields, config = read_run(path)
        identity = run_identity(config, fields["reads"])
        with Interrupts(lambda: None) as interrupts:
            fit(prepare_experiment(config, encoder=read_encoder(path)), path, interrupts, identity)
    except Interrupted:
        return 0  # with any other status, Lightning would end rank 0 before it has saved everything
    except RequestError:
        return 2  # rank 0 prints the error
    except Exception as error:
        with open_to_append(path / "log.txt") as log:
            print(traceback.format_exc(), end="", file=log)
        print(
            f"error: process {rank()}: {type(error).__name__}: {first_line(error)}{own_frames(error)}", file=sys.stderr
        )
        return 1
    return 0


def _end_with_rank_0(parent: int) -> None:
    """End this process within EXIT_SECONDS after rank 0 has ended, which it may wait for. parent: the id of rank 0."""
    while os.getppid() == parent:
        time.sleep(1.0)
    limit_exit(1, from_now=True)


def _train(
    experiment: Experiment, writer: RunWriter, interrupts: Interrupts, log: TextIO, inexact: Sequence[str], use: RunUse
) -> int:
    """Train and test, and record the outcome. Returns and raises as `train_run` does."""
    bar = progress_bar()

    def on_epoch(metrics: dict[str, float], outcome: Outcome) -> None:
        writer.epoch(metrics, **outcome, usage=use.usage())
        bar.print_epoch(epoch_line(metrics, experiment.epochs), log)

    print(f"Using {experiment.device.accelerator} device")
    print(experiment.data.summary())
    for note in [*experiment.data.notes(), *experiment.notes()]:
        print(f"note: {note}", file=sys.stderr)
    try:
        _record_start(experiment, writer, inexact)
        settings = _board_settings(Record(writer.path, writer.fields))
        outcome = fit(experiment, writer.path, interrupts, writer.identity, on_epoch, settings, use, bar)
        use.machine.sample()  # the run may have taken less than a second
        writer.close(status="finished", **outcome, usage=use.usage())
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
    best, epochs, metrics = outcome["best_epoch"], outcome["epochs"], outcome["metrics"]
    if best and experiment.monitor not in metrics:
        print(
            f"note: {experiment.monitor} was never measured, so the last epoch counts as the best; with "
            "+trainer.limit_train_batches=N each N batches are an epoch, which ends with a validation",
            file=sys.stderr,
        )
    print(result_lines(best, epochs, metrics, writer.path, outcome["stopped"], outcome["best_weights"], use.usage()))
    return 0


def _board_settings(record: Record) -> dict[str, float | str]:
    """Return what TensorBoard's HPARAMS tab shows of a run: options, the settings in SHOWN, and all overrides."""
    values = {**record.fields["choices"], **{key: record.get(key) for key in SHOWN}}
    values |= {key: parse_value(text) for key, text in override_values(record.fields["overrides"]).items() if text}
    return {
        key: value if isinstance(value, int | float) and math.isfinite(value) else str(value)
        for key, value in values.items()
        if value is not None
    }


def _record_start(experiment: Experiment, writer: RunWriter, inexact: Sequence[str]) -> None:
    """Record that the run is running, and why its bits may differ from those of a run without interruption."""
    device = experiment.device.accelerator
    now = {**numeric_environment(), "device": torch.cuda.get_device_name() if device == "cuda" else device}
    if experiment.device.compile:
        now["compiler"] = compiler()
    before, reasons = dict[str, object](), list[str]()
    if writer.before:
        before, reasons = writer.before.get("environment", {}), writer.before.get("inexact", [])
    if changes := environment_changes(before, now):
        print(f"with {', '.join(changes)}: the result will not equal, bit for bit, that of a run without interruption")
    timed = ["compiled kernels were chosen by their time"] if experiment.device.compile in TIMED else []
    reasons = list(dict.fromkeys([*reasons, *changes, *inexact, *timed]))
    writer.update(status="running", finished=None, error=None, environment=now, inexact=reasons)


def _record_failure(error: Exception, device: str, writer: RunWriter, log: TextIO) -> None:
    """Record and print why the training has failed, and print how to continue it."""
    _log_traceback(log, error)
    cause = error.__cause__ if isinstance(error.__cause__, RequestError) else error
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        print(traceback.format_exc(), end="", file=sys.__stderr__)
    if not writer.path.is_dir():
        print(
            f"error: {writer.path}: this directory was moved or deleted while the run trained\n"
            "  to go on: lamella resume, with the directory where it is now",
            file=sys.stderr,
        )
        return
    with suppress(OSError):  # the disk may be full
        writer.close(status="failed", error=_cause(error, device, str(error)))
    print(
        f"error: {_cause(error, device, first_line(error))}{own_frames(error)}\n"
        f"  the full traceback: {writer.path}/log.txt",
        file=sys.stderr,
    )
    if isinstance(error, NonFiniteLoss):
        print(f"  to see where it began: lamella explain-nan {writer.path}", file=sys.stderr)
    if _can_go_on(cause):
        print(f"  to go on once that is fixed: lamella resume {writer.path}", file=sys.stderr)


def _can_go_on(error: BaseException) -> bool:
    """Return False where a resumed run would come to the same error, because it has the same config."""
    if isinstance(error, RequestError) and error.key:
        return error.key in CHANGEABLE_KEYS
    return not isinstance(error, NonFiniteLoss | MisconfigurationException) and not is_out_of_memory(error)


def _cause(error: Exception, device: str, message: str) -> str:
    """Return the type and the message of an error, after a hint where memory ran out."""
    cause = f"{type(error).__name__}: {message}"
    if not is_out_of_memory(error):
        return cause
    return f"out of memory on {device}, a new run with a smaller data.batch_size takes less: {cause}"


def _log_traceback(log: TextIO, error: BaseException | None) -> None:
    """Write a traceback into the log, unless the disk of the log is full."""
    with suppress(OSError):
        print("".join(traceback.format_exception(error)), end="", file=log)
