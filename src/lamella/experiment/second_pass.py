"""Train a part of a run once more, from one of its checkpoints, without a change in its directory."""

import shutil
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from lamella.config.values import Config
from lamella.errors import RequestError
from lamella.experiment.build import prepare_experiment
from lamella.experiment.experiment import Experiment
from lamella.experiment.fit import fit
from lamella.experiment.model import read_encoder
from lamella.experiment.session import run_interrupts
from lamella.interrupts import Interrupted
from lamella.runs.checkpoints import STATE_KEY, StateDict, checksum_matches, read_checkpoint
from lamella.runs.files import BEST, LAST, METRICS, PREVIOUS
from lamella.runs.identity import run_identity
from lamella.runs.schema import RunRecord
from lamella.training.device import process_count

OF_FINISHED_EPOCHS = (f"checkpoints/{BEST}", METRICS)  # without which a run with a finished epoch does not go on


def repeatable_experiment(path: Path, record: RunRecord, config: Config) -> Experiment:
    """Return the experiment of the run in `path`, without the pictures, loggers and compiled steps of its config.

    Raises RequestError where it cannot be trained again here.
    """
    trainer = {**config["trainer"], "chunk": 1, "logger": None, "profile": False}
    device = {**config["device"], "compile": False}  # what looks at the layers are hooks, which are not compiled
    changed = {**config, "visuals": {}, "trainer": trainer, "device": device}
    experiment = prepare_experiment(changed, encoder=read_encoder(path))
    processes = process_count(trainer, experiment.device.accelerator)
    if processes > 1:
        raise RequestError(
            f"{path}: trainer.devices is {processes}, and one process cannot repeat what several have computed;\n"
            "  train with trainer.devices=1 to see whether the same happens",
            "trainer.devices",
        )
    if experiment.weights and "weights" in record:
        experiment.weights.check(record["weights"])
    return experiment


def train_again(
    experiment: Experiment, path: Path, record: RunRecord, config: Config, epoch: int, callback: pl.Callback
) -> None:
    """Train the run in `path` from its newest finite checkpoint before an epoch, or from the start, with a callback.

    The weights have the bits that they had. experiment: as `repeatable_experiment` returns it. epoch: counted from 1.
    Raises RequestError where the run cannot go on, what the training raises, and SystemExit after a signal.
    """

    def make_trainer(first: Any, last: Collection[pl.Callback], *loggers: Any, **more: Any) -> pl.Trainer:
        return experiment.trainer(first, [*last, callback], *loggers, **more)

    watched = replace(experiment, trainer=make_trainer)
    with TemporaryDirectory() as directory, run_interrupts([]) as interrupts:
        if start := _checkpoint_before(path, epoch):
            (Path(directory) / "checkpoints").mkdir()
            for name in filter(lambda name: (path / name).is_file(), OF_FINISHED_EPOCHS):
                shutil.copyfile(path / name, Path(directory, name))
            shutil.copyfile(start, Path(directory, "checkpoints", LAST))
        try:
            fit(watched, Path(directory), interrupts, run_identity(config, record["reads"]))
        except Interrupted as interrupted:
            raise SystemExit(128 + interrupted.number) from None


def _checkpoint_before(path: Path, epoch: int) -> Path | None:
    """Return the newest intact checkpoint of a run from which an epoch can be trained, and whose numbers are finite."""
    is_complete = all((path / name).is_file() for name in OF_FINISHED_EPOCHS)
    for file in (path / "checkpoints" / name for name in (LAST, PREVIOUS, BEST)):
        if file.is_file() and checksum_matches(file):
            checkpoint = read_checkpoint(file)
            state = checkpoint["callbacks"][STATE_KEY]
            if state["epochs"] < epoch and (is_complete or not state["best_epoch"]) and is_finite(checkpoint):
                return file
    return None


def is_finite(checkpoint: StateDict) -> bool:
    """Return whether the weights in a checkpoint are finite."""
    tensors = [value for value in checkpoint["state_dict"].values() if isinstance(value, Tensor)]
    return all(bool(value.isfinite().all()) for value in tensors if value.is_floating_point())
