"""One run, start to end: fit, then test the best checkpoint."""

import logging
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lamella.build import Experiment
from lamella.checkpoints import AtomicCheckpointIO, Checkpoints
from lamella.errors import RequestError
from lamella.progress import Bar, Board, EpochLog
from lamella.task import DIRECTION

# Lightning's advice on loggers, workers and tuning, which Lamella has followed or does not need.
QUIET = ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric")


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
    on_epoch: OnEpoch = lambda metrics, outcome: None,
    settings: Mapping[str, Any] | None = None,
) -> Outcome:
    """Train and test, writing TensorBoard's events and `checkpoints/` into `directory`.

    on_epoch: called on the first rank with each epoch's metrics and the outcome so far. settings: what TensorBoard's
    HPARAMS shows beside the best metrics. Raises RequestError where the Trainer refuses its arguments, before any
    training, and NonFiniteLoss.
    """
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)
    task, data, monitor = experiment.task, experiment.data, experiment.monitor
    latest = Outcome({}, 0, 0, 0)

    def keep(metrics: dict[str, float]) -> None:
        nonlocal latest
        epoch, best = int(metrics["epoch"]), checkpoints.best_epoch
        kept = {name: value for name, value in metrics.items() if name.startswith(("train/", "val/"))}
        latest = Outcome(kept if epoch == best else latest.metrics, best, epoch, trainer.global_step)
        on_epoch(metrics, latest)

    charts = {name: [f"train/{name}", f"val/{name}"] for name in ("loss", task.metric)}
    checkpoints = Checkpoints(directory / "checkpoints", monitor, DIRECTION[monitor.partition("/")[2]])
    board = Board(str(directory.absolute()), charts)
    trainer = experiment.trainer(
        [Bar(), checkpoints],
        [EpochLog(keep), board],
        plugins=[AtomicCheckpointIO()],
        default_root_dir=str(directory),
        log_every_n_steps=0,
    )
    data.check_world(trainer.world_size)
    # Apart from the draws of the initial weights, and different on each rank, so that dropout is.
    stream = np.random.SeedSequence((experiment.seed, trainer.global_rank)).generate_state(1, np.uint64)[0]
    torch.manual_seed(int(stream) >> 1)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="|".join(QUIET))
            trainer.fit(task, datamodule=data)
            if not trainer.global_step:
                raise RequestError("trainer: its limits leave no step to take", "trainer")
            best = str(checkpoints.best)
            [tested] = trainer.test(task, datamodule=data, ckpt_path=best, weights_only=True, verbose=False)
        metrics = {name: value for name, value in tested.items() if name.startswith("test/")}
        outcome = replace(latest, metrics=latest.metrics | metrics)
        order = [name for stage in ("val", "test", "train") for name in outcome.metrics if name.startswith(stage)]
        shown = {f"best/{name}": outcome.metrics[name] for name in order}
        board.log_hyperparams({"seed": experiment.seed, **(settings or {})}, shown, outcome.best_epoch)
        return outcome
    finally:
        board.close()


def rank() -> int:
    """This process among those that share the run, 0 for the one that keeps the record."""
    return int(os.environ.get("LOCAL_RANK", 0))
