"""One run, start to end: fit, then test the best checkpoint."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamella.atomic_files import replace_link
from lamella.data import Data
from lamella.distributed import rank
from lamella.errors import RequestError
from lamella.experiment.experiment import Experiment
from lamella.interrupts import Interrupts
from lamella.runs.checkpoints import VerifiedCheckpointIO, checksum_matches, newest_checkpoint, read_checkpoint
from lamella.runs.files import truncate_growing_files
from lamella.runs.ranking import larger_is_better
from lamella.training.checkpointing import Checkpoints
from lamella.training.chunk_length import ChunkLength
from lamella.training.loggers import EpochLogger, EpochTensorBoard
from lamella.training.progress import EpochBar
from lamella.training.trainer import quiet_lightning


@dataclass(frozen=True)
class Outcome:
    """What has come out. metrics: the best epoch's train/… and val/…, and in the end its checkpoint's test/…."""

    metrics: dict[str, float]
    best_epoch: int
    epochs: int
    steps: int


OnEpoch = Callable[[dict[str, float], Outcome], None]


def fit(
    experiment: Experiment,
    directory: Path,
    interrupts: Interrupts,
    on_epoch: OnEpoch = lambda metrics, outcome: None,
    settings: Mapping[str, Any] | None = None,
) -> Outcome:
    """Train and test, writing TensorBoard's events and `checkpoints/` into `directory`.

    Where there is a checkpoint already, training goes on from it; what was written after it is cut off. on_epoch:
    called on the first rank with each epoch's metrics and the outcome so far. settings: what TensorBoard's HPARAMS
    shows beside the best metrics. Raises RequestError, before any training, where the Trainer refuses its arguments,
    every checkpoint is damaged, or the checkpoint comes from other samples; NonFiniteLoss; and Interrupted.
    """
    task, data, monitor = experiment.task, experiment.data, experiment.monitor
    checkpoints = Checkpoints(
        directory, monitor, "max" if larger_is_better(monitor) else "min", experiment.checkpoint_every, interrupts
    )
    begin = _go_on(checkpoints, data, experiment.epochs)

    def keep(metrics: dict[str, float]) -> None:
        checkpoints.compare(metrics)
        epoch = int(metrics["epoch"])
        on_epoch(metrics, Outcome(checkpoints.metrics, checkpoints.best_epoch, epoch, trainer.global_step))

    charts = {name: [f"train/{name}", f"val/{name}"] for name in ("loss", task.metric)}
    board = EpochTensorBoard(str(directory.absolute()), charts)
    with quiet_lightning():
        trainer = experiment.trainer(
            checkpoints,
            [EpochBar()],
            [EpochLogger(keep), board],
            plugins=[VerifiedCheckpointIO()],
            default_root_dir=str(directory),
            log_every_n_steps=0,
        )
        data.check_world(trainer.world_size)
        data.chunk = ChunkLength(trainer, experiment.chunk, checkpoints.due)
        try:
            trainer.fit(task, datamodule=data, ckpt_path=begin, weights_only=True)
            if not trainer.global_step:
                raise RequestError("trainer: its limits leave no step to take", "trainer")
            best = str(checkpoints.best)
            [tested] = trainer.test(task, datamodule=data, ckpt_path=best, weights_only=True, verbose=False)
            metrics = {name: value for name, value in tested.items() if name.startswith("test/")}
            outcome = Outcome(
                checkpoints.metrics | metrics, checkpoints.best_epoch, trainer.current_epoch, trainer.global_step
            )
            order = [name for stage in ("val", "test", "train") for name in outcome.metrics if name.startswith(stage)]
            shown = {f"best/{name}": outcome.metrics[name] for name in order}
            board.log_hyperparams({"seed": experiment.seed, **(settings or {})}, shown, outcome.best_epoch)
            return outcome
        except RequestError as error:
            if checkpoints.started:  # a file that cannot be read any more, say
                raise RuntimeError(str(error)) from error
            raise
        finally:
            board.close()


def _go_on(checkpoints: Checkpoints, data: Data, epochs: int | None) -> Path | None:
    """The checkpoint to begin with; on the first rank, what was written after it is cut off."""
    path, damaged = newest_checkpoint(checkpoints.last.parent)
    saved = read_checkpoint(path) if path else {}
    if saved and saved.get(type(data).__qualname__) != data.state_dict():
        raise RequestError(f"data: the samples are not those with which {path} was trained", "data")
    state = saved["callbacks"].get(checkpoints.state_key, {}) if saved else {}
    if state and state["batches"] and epochs is not None and epochs <= state["epochs"]:
        raise RequestError(
            f"trainer.max_epochs is {epochs}, but the run is in the middle of epoch {state['epochs'] + 1}",
            "trainer.max_epochs",
        )
    best = checkpoints.best
    if state.get("best_epoch") and not (best.is_file() and checksum_matches(best)):
        damaged.append(best)
        if state["batches"] or state["epochs"] != state["best_epoch"]:
            raise RequestError(
                f"{best}: damaged or gone, and there is no other copy;\n  `lamella train` begins a new run"
            )
    if rank() == 0:
        for file in damaged:
            assert path is not None
            print(f"{file} is damaged, its checksum is not that of its content; {path} takes its place")
            replace_link(path, file)
        if state:
            batches = f", batch {state['batches']} of the next one" if state["batches"] else ""
            print(f"going on after epoch {state['epochs']}{batches}")
        truncate_growing_files(checkpoints.run, state.get("files", {}))
    return path
