"""What takes the place of the checkpoints and of the other processes of a run while it is tried."""

import io
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import CheckpointIO

from lamella.config.values import Config
from lamella.errors import RequestError, first_line
from lamella.experiment.experiment import Experiment
from lamella.runs.checkpoints import StateDict


def one_process(options: Config) -> dict[str, Any]:
    """Return the arguments of a Trainer that trains with one process and prints and logs nothing by itself.

    options: the config group `trainer`, whose limits of the run do not count.
    """
    devices = options.get("devices")
    return {
        **dict.fromkeys(("min_epochs", "min_steps", "max_time", "profiler")),
        "strategy": "auto",
        "devices": devices[:1] if isinstance(devices, list) else 1,
        "num_nodes": 1,
        "num_sanity_val_steps": 0,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 0,
    }


class UnwrittenCheckpoint(CheckpointIO):
    """Raises RequestError where a checkpoint of a LightningModule could not be read back. No file is written."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment

    def save_checkpoint(self, checkpoint: StateDict, path: object, storage_options: object = None) -> None:
        large = ("state_dict", "optimizer_states")
        file = io.BytesIO()
        try:
            torch.save({name: value for name, value in checkpoint.items() if name not in large}, file)
            file.seek(0)
            torch.load(file, weights_only=True)
        except Exception as error:
            raise RequestError(
                f"task: {self.experiment.kind.title} saves in its checkpoints what cannot be read back; save "
                "tensors and plain\n  values alone, and leave objects out with self.save_hyperparameters(ignore=[…]): "
                f"{first_line(error)}",
                "task",
            ) from error

    def load_checkpoint(self, path: object, map_location: object = None, weights_only: bool | None = None) -> StateDict:
        raise NotImplementedError

    def remove_checkpoint(self, path: object) -> None:
        raise NotImplementedError


class FirstOf:
    """Stands for the Trainer of the first of `world` processes. All else is of `trainer`, which is alone."""

    def __init__(self, world: int, trainer: pl.Trainer) -> None:
        self.global_rank, self.world_size, self.current_epoch, self.overfit_batches = 0, world, 0, 0
        self.alone = trainer

    def __getattr__(self, name: str) -> object:
        return getattr(self.alone, name)
