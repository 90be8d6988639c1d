"""Show how well the network tells the classes apart."""

import pytorch_lightning as pl
import torch
from torch import Tensor

from lamella.training.objective import Objective
from lamella.visuals.pictures import confusion_picture
from lamella.visuals.tensorboard import add_image, datamodule_of, tensorboard_writer
from lamella.visuals.validation import ValidationCallback


class Confusion(ValidationCallback):
    """Draws the confusion matrix of each validation."""

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.counts: Tensor | None = None

    def add_batch(self, inputs: Tensor, targets: Tensor, outputs: Tensor, objective: Objective) -> None:
        if objective.kind == "classes":
            counts = objective.confusion(outputs, targets)
            self.counts = counts if self.counts is None else self.counts + counts

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.counts is None:
            return
        if trainer.world_size > 1:
            self.counts = trainer.strategy.reduce(self.counts, reduce_op="sum")
        if writer := tensorboard_writer(trainer):
            picture = confusion_picture(self.counts.cpu(), datamodule_of(trainer).classes)
            add_image(writer, "confusion", picture, trainer.current_epoch + 1)


class PRCurves(ValidationCallback):
    """Draws precision against recall for each class of each validation. With several processes, rank 0's samples."""

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.parts: list[tuple[Tensor, Tensor]] = []

    def add_batch(self, inputs: Tensor, targets: Tensor, outputs: Tensor, objective: Objective) -> None:
        if objective.kind == "classes" and targets.dim() == 1:
            self.parts.append((objective.probabilities(outputs), targets))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        writer = tensorboard_writer(trainer)
        if writer is None or not self.parts:
            return
        predicted, targets = (torch.cat(parts).cpu() for parts in zip(*self.parts, strict=True))
        for number, name in enumerate(datamodule_of(trainer).classes):
            writer.add_pr_curve(
                f"precision_recall/{name}", targets == number, predicted[:, number], trainer.current_epoch + 1
            )
