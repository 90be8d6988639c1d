"""How well the classes are told apart."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lamella.training.losses import probabilities
from lamella.training.metrics import confusion_counts
from lamella.visuals.pictures import confusion_picture
from lamella.visuals.tensorboard import add_image, datamodule_of, loss_of, tensorboard_writer


class Confusion(pl.Callback):
    """The confusion matrix of each validation."""

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.counts: Tensor | None = None

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        targets = batch[1]
        if targets.dtype != torch.int64:
            return
        pairs = confusion_counts(outputs, targets)
        self.counts = pairs if self.counts is None else self.counts + pairs

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.counts is None:
            return
        if trainer.world_size > 1:
            self.counts = trainer.strategy.reduce(self.counts, reduce_op="sum")
        if writer := tensorboard_writer(trainer):
            classes = datamodule_of(trainer).classes
            picture = confusion_picture(self.counts.cpu(), classes)
            add_image(writer, "confusion", picture, trainer.current_epoch + 1)


class PRCurves(pl.Callback):
    """Precision against recall for each class of each validation; of several processes, the first one's share."""

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.parts: list[tuple[Tensor, Tensor]] = []

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch[1].dtype == torch.int64:
            self.parts.append((probabilities(outputs, loss_of(pl_module)), batch[1]))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        writer = tensorboard_writer(trainer)
        if writer is None or not self.parts:
            return
        sure, targets = (torch.cat(parts).cpu() for parts in zip(*self.parts, strict=True))
        for number, name in enumerate(datamodule_of(trainer).classes):
            writer.add_pr_curve(
                f"precision_recall/{name}", targets == number, sure[:, number], trainer.current_epoch + 1
            )
