"""Checkpoints: the last epoch's and the best one's, each whole at any moment."""

import math
import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint

from lamella.errors import RequestError, first_line


def weights(path: Path) -> dict[str, Any]:
    """The state dict of a checkpoint. Raises RequestError for a file that is not there or not whole."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        state: dict[str, Any] = checkpoint["state_dict"]
    except FileNotFoundError:
        raise RequestError(f"{path}: there is no such checkpoint; the run has not finished an epoch") from None
    except Exception as error:
        raise RequestError(f"{path}: this is no whole checkpoint ({first_line(error)})") from error
    return state


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a neighbour and renames it: a crash or a full disk leaves the checkpoint that was there."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        neighbour = path.with_name(f".{path.name}")
        try:
            with neighbour.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(neighbour, path)
        finally:
            neighbour.unlink(missing_ok=True)


class Checkpoints(Checkpoint):
    """After each epoch `last.ckpt`, and `best.ckpt` where `monitor` is better than in all epochs before.

    monitor: a metric's name. mode: "min" or "max". Of equal epochs the first is the best; one without the metric,
    because it was not validated, is not compared, and as long as there is no other the last epoch is the best.
    """

    def __init__(self, directory: Path, monitor: str, mode: str) -> None:
        self.last, self.best = directory / "last.ckpt", directory / "best.ckpt"
        self.monitor, self.sign = monitor, 1.0 if mode == "max" else -1.0
        self.best_score, self.best_epoch = -math.inf, 0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        score = self.sign * float(trainer.callback_metrics.get(self.monitor, -self.sign * math.inf))
        better = score > self.best_score or self.best_score == -math.inf
        if better:
            self.best_score, self.best_epoch = score, trainer.current_epoch + 1
        trainer.save_checkpoint(self.last)
        if better and trainer.is_global_zero:
            # Both names for one file; the next epoch replaces the name last.ckpt, not the file.
            neighbour = self.best.with_name(f".{self.best.name}")
            neighbour.unlink(missing_ok=True)
            os.link(self.last, neighbour)
            os.replace(neighbour, self.best)

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_score, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_score, self.best_epoch = state_dict["best_score"], state_dict["best_epoch"]
