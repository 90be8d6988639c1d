"""Train a run from start to end, then test its best checkpoint."""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.loggers.logger import Logger

from lamella.atomic_files import replace_link
from lamella.console import print
from lamella.data import OwnData, RunData
from lamella.data.fingerprint import Fingerprint, changed, other_rounding, uncompared_notes
from lamella.distributed import rank
from lamella.errors import RequestError
from lamella.experiment.experiment import Experiment
from lamella.experiment.first_weights import set_first_weights
from lamella.experiment.outcome import Outcome, outcome_of, reason_to_stop
from lamella.interrupts import Interrupts
from lamella.lightning_internals import datamodule_key
from lamella.runs.checkpoints import (
    StateDict,
    VerifiedCheckpointIO,
    checksum_matches,
    newest_checkpoint,
    read_checkpoint,
    saved_identity,
    weights_kind,
)
from lamella.runs.files import PROFILE, truncate_growing_files
from lamella.runs.identity import Identity, check_identity
from lamella.runs.reader import check_metrics
from lamella.runs.sample_metrics import write_sample_metrics
from lamella.training.averaging import Averages
from lamella.training.checkpointing import Checkpoints
from lamella.training.chunk_length import ChunkLength
from lamella.training.compiled_steps import CompiledSteps
from lamella.training.cuda_graphs import CudaGraphs
from lamella.training.freezing import Freezing, thawed_names
from lamella.training.loggers import EpochLogger, EpochTensorBoard
from lamella.training.machine_use import RunUse
from lamella.training.non_finite import NonFiniteLoss
from lamella.training.progress import CellBar, EpochBar, progress_bar
from lamella.training.sample_metrics import SampleMetrics
from lamella.training.step_profile import StepProfile
from lamella.training.trainer import quiet_lightning

OnEpoch = Callable[[dict[str, float], Outcome], None]


def fit(
    experiment: Experiment,
    directory: Path,
    interrupts: Interrupts,
    identity: Identity,
    on_epoch: OnEpoch = lambda metrics, outcome: None,
    settings: Mapping[str, float | str] | None = None,
    use: RunUse | None = None,
    bar: EpochBar | CellBar | None = None,
) -> Outcome:
    """Train and test an experiment, and write its events, checkpoints and metrics of samples into `directory`.

    Training continues from the newest checkpoint in `directory`, if there is one; what was written after it is cut off.
    identity: of the run, which its checkpoints have to carry. on_epoch: called on rank 0 with the metrics of each epoch
    and the outcome so far. settings: what TensorBoard's HPARAMS tab shows beside the best metrics. use: what the run
    uses of the machine, None where that is not measured. bar: shows the progress.

    A run that begins takes the weights that the config names.

    Raises RequestError, before any training, where the Trainer refuses its arguments, every checkpoint is damaged, the
    checkpoint is of another run or of other samples, or the metrics of finished epochs are lost; NonFiniteLoss where
    the loss is not finite; and Interrupted after a signal.
    """
    # A network that cannot be built is refused before a file is changed.
    experiment.device.make_double(experiment.module)
    network = experiment.task.network if experiment.kind.is_task else None
    checkpoints = Checkpoints(
        directory,
        experiment.monitor,
        experiment.mode,
        experiment.checkpoint_every,
        interrupts,
        identity,
        {f"network.{name}" for name in thawed_names(network, experiment.freeze)} if network else (),
        experiment.recipe.keep_top or 0,
    )
    start = _starting_checkpoint(checkpoints, experiment.data, experiment.epochs)
    taken = set_first_weights(experiment) if start is None else None
    if taken and experiment.weights and rank() == 0:
        print(taken.line)
        for note in experiment.weights.notes(experiment.data):
            print(f"note: {note}", file=sys.stderr)
    compiled = _compiled_steps(experiment)
    samples = SampleMetrics(experiment.objective, experiment.kind.is_task and experiment.task.has_own_step)
    board = EpochTensorBoard(str(directory.absolute()), of_task=experiment.kind.is_task)

    def end_epoch(metrics: dict[str, float]) -> None:
        checkpoints.compare(metrics)
        samples.end_epoch(checkpoints.best_epoch == metrics["epoch"])
        board.save()  # so that a reader of an epoch's metrics finds its pictures too
        on_epoch(metrics, outcome_of(checkpoints, compiled, int(metrics["epoch"]), trainer.global_step))
        if use:
            board.log_machine(use.new_points())

    with quiet_lightning(), closing(board):
        # The board is the first one: code of the project's own writes pictures to `self.logger.experiment`.
        bar = bar or progress_bar()
        trainer = _trainer(experiment, directory, checkpoints, compiled, samples, [board, EpochLogger(end_epoch)], bar)
        try:
            test_metrics, stopped = _train_and_test(trainer, experiment, checkpoints, start)
        except RequestError as error:
            if checkpoints.started:  # the request was right, and something else failed, such as reading a file
                raise RuntimeError(str(error)) from error
            raise
        outcome = outcome_of(checkpoints, compiled, trainer.current_epoch, trainer.global_step, test_metrics, stopped)
        outcome["best_weights"] = "trained"
        averages = any(isinstance(one, Averages | WeightAveraging) for one in trainer.callbacks)  # type: ignore[attr-defined]
        if averages and trainer.is_global_zero:  # for the other ranks, the file may not be there yet
            outcome["best_weights"] = weights_kind(read_checkpoint(checkpoints.best))
        if trainer.is_global_zero and (arrays := samples.arrays()):
            write_sample_metrics(directory, arrays)
        board.log_result(settings or {}, outcome["metrics"], outcome["best_epoch"])
    return outcome


def _trainer(
    experiment: Experiment,
    directory: Path,
    checkpoints: Checkpoints,
    compiled: CompiledSteps | None,
    samples: SampleMetrics,
    loggers: Sequence[Logger],
    bar: EpochBar | CellBar,
) -> pl.Trainer:
    """Return the Trainer of a run, and let the data know the number of processes and the length of a chunk."""
    # A run that goes on has its profile already.
    profiles = experiment.recipe.profile and rank() == 0 and not (directory / PROFILE).exists()
    profile = StepProfile(directory) if profiles else None
    trainer = experiment.trainer(
        [checkpoints, *experiment.recipe.callbacks(experiment.monitor, experiment.mode)],
        [
            bar,
            *([samples] if experiment.kind.is_task else []),
            *([Freezing(experiment.freeze)] if experiment.thaws else []),
            *experiment.callbacks(loggers),
            *([profile] if profile else []),
            *([compiled] if compiled else []),
        ],
        [logger for logger in loggers if experiment.kind.is_task or not isinstance(logger, EpochLogger)],
        plugins=[VerifiedCheckpointIO()],
        default_root_dir=str(directory),
        log_every_n_steps=0,
        **({} if experiment.data.validates else {"limit_val_batches": 0}),
    )
    experiment.data.check_world(trainer.world_size)
    length = ChunkLength(trainer, experiment.chunk, checkpoints.due)
    experiment.data.chunk = profile.limited(length) if profile else length
    return trainer


def _compiled_steps(experiment: Experiment) -> CompiledSteps | None:
    """Let the task of a run take compiled steps, and return what compiles them; None where none are to be compiled."""
    if not experiment.device.compile:
        return None
    task, compiled = experiment.task, CompiledSteps(experiment.device.compile)
    task.compiled_step = partial(compiled.results, task)
    task.run_chunk = CudaGraphs(compiled) if experiment.device.graph else compiled.run_chunk
    return compiled


def _train_and_test(
    trainer: pl.Trainer, experiment: Experiment, checkpoints: Checkpoints, start: Path | None
) -> tuple[dict[str, float], str | None]:
    """Train from the checkpoint `start`, None for the beginning.

    Returns the test metrics of the best checkpoint, none if `trainer.test` is false, and why the run ended before its
    last epoch, None if it did not. Raises NonFiniteLoss if the loss of the test is not finite.
    """
    module, data = experiment.module, experiment.data
    trainer.fit(module, datamodule=data, ckpt_path=start, weights_only=True)
    if not trainer.global_step:
        raise RequestError("trainer: its limits leave no step to take", "trainer")
    stopped = reason_to_stop(trainer)
    if not experiment.test:
        return {}, stopped
    best = str(checkpoints.best)
    [logged] = trainer.test(module, datamodule=data, ckpt_path=best, weights_only=True, verbose=False)
    metrics = experiment.test_metrics(logged)
    if not math.isfinite(loss := metrics.get("test/loss", 0.0)):
        raise NonFiniteLoss(f"the loss of the test is {loss}, with the weights of the best epoch")
    return metrics, stopped


def _starting_checkpoint(checkpoints: Checkpoints, data: RunData, epochs: int | None) -> Path | None:
    """Return the checkpoint from which training continues, None for a new run.

    On rank 0, damaged checkpoints are replaced, and what was written after the checkpoint is cut off.
    """
    path, damaged = newest_checkpoint(checkpoints.last.parent)
    state = _saved_state(path, checkpoints, data, epochs) if path else {}
    best = checkpoints.best
    if state.get("best_epoch") and not (best.is_file() and checksum_matches(best)):
        damaged.append(best)
        if state["batches"] or state["epochs"] != state["best_epoch"]:
            raise RequestError(
                f"{best}: damaged or missing, and there is no other copy;\n  `lamella train` begins a new run"
            )
    elif state.get("best_epoch"):
        check_identity(best, saved_identity(read_checkpoint(best)), checkpoints.identity)
    if isinstance(data, OwnData) and state:
        data.position = state["epochs"], state["batches"]
    if rank() == 0:
        check_metrics(checkpoints.run, state.get("files", {}))
        for file in damaged:
            assert path is not None
            print(f"{file} is damaged, its checksum does not match its content; {path} takes its place")
            replace_link(path, file)
        if state:
            batches = f", batch {state['batches']} of the next one" if state["batches"] else ""
            print(f"going on after epoch {state['epochs']}{batches}")
        truncate_growing_files(checkpoints.run, state.get("files", {}))
    return path


def _saved_state(path: Path, checkpoints: Checkpoints, data: RunData, epochs: int | None) -> StateDict:
    """Return the state of `Checkpoints` in a checkpoint.

    Raises RequestError where the checkpoint is of another run, was trained on other samples, or where
    `trainer.max_epochs` ends the run in the middle of an epoch.
    """
    checkpoint = read_checkpoint(path)
    state: StateDict = checkpoint["callbacks"].get(checkpoints.state_key, {})
    check_identity(path, saved_identity(checkpoint), checkpoints.identity)
    _check_samples(path, checkpoint.get(datamodule_key(type(data))), data)
    if state and state["batches"] and epochs is not None and epochs <= state["epochs"]:
        raise RequestError(
            f"trainer.max_epochs is {epochs}, but the run is in the middle of epoch {state['epochs'] + 1}",
            "trainer.max_epochs",
        )
    return state


def _check_samples(path: Path, saved: Fingerprint | None, data: RunData) -> None:
    """Raise RequestError where a checkpoint was trained on other samples, and note what cannot be compared.

    Where another environment explains that computed inputs differ, a note says so. saved: the fingerprint of the
    samples in the checkpoint.
    """
    different = data.differences(saved, "fit")
    now = data.state_dict()
    reasons = other_rounding(different, saved, now) if saved else []
    if saved is None or (different and not reasons):
        raise RequestError(
            f"data: the samples are not those with which {path} was trained;\n"
            f"  {changed(different)}; put the data back as they were, or train a new run",
            "data",
        )
    notes = uncompared_notes(saved, now)
    if different:
        notes.append(
            f"{', '.join(different)}: not bit for bit as in {path}, because they were computed with "
            f"{', '.join(reasons)}; if you have changed the data too, train a new run"
        )
    if not {"inputs", "first"} & saved.keys():
        notes = [f"{path} is of an earlier version, which kept no checksum of the inputs: the targets are compared"]
    for note in notes if rank() == 0 else []:
        print(f"note: {note}", file=sys.stderr)
