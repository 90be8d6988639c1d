"""Samples as the network gets them, and those that it mistakes."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lamella.errors import RequestError
from lamella.training.losses import probabilities
from lamella.visuals.pictures import image_grid
from lamella.visuals.tensorboard import add_image, are_images, datamodule_of, loss_of, tensorboard_writer


class SampleImages(pl.Callback):
    """Training samples of each first batch, as the network gets them: augmented and normalised.

    Grey is 0, black -3, white 3: a wrong normalisation shows at once.
    """

    def __init__(self, count: int = 16) -> None:
        if count < 1:
            raise RequestError(f"visuals.samples.count is {count}; it takes 1 or more", "visuals.samples.count")
        self.count = count

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx or not are_images(batch[0]) or (writer := tensorboard_writer(trainer)) is None:
            return
        inputs, targets = (values[: self.count] for values in batch)
        classes = datamodule_of(trainer).classes
        captions = [classes[target] for target in targets.tolist()] if targets.dtype == torch.int64 else ()
        title = (
            f"values from {inputs.min():.2f} to {inputs.max():.2f}, mean {inputs.mean():.2f}, std {inputs.std():.2f}"
        )
        picture = image_grid(inputs.float() / 6 + 0.5, captions, title)
        add_image(writer, "samples", picture, trainer.current_epoch + 1)


class Mistakes(pl.Callback):
    """The validation samples of which the network is most sure and wrong, with the true and the predicted class.

    Of several processes, the first one's share.
    """

    def __init__(self, count: int = 16) -> None:
        if count < 1:
            raise RequestError(f"visuals.mistakes.count is {count}; it takes 1 or more", "visuals.mistakes.count")
        self.count = count

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.worst: tuple[Tensor, ...] = ()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        inputs, targets = batch
        if not are_images(inputs) or targets.dtype != torch.int64:
            return
        sure, predicted = probabilities(outputs, loss_of(pl_module)).max(1)
        sure = torch.where(predicted == targets, -1.0, sure)
        top = sure.topk(min(self.count, len(sure))).indices
        found: tuple[Tensor, ...] = (sure[top], predicted[top], targets[top], inputs[top])
        if self.worst:
            found = tuple(torch.cat(parts) for parts in zip(self.worst, found, strict=True))
        top = found[0].topk(min(self.count, len(found[0]))).indices
        self.worst = tuple(part[top] for part in found)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.worst or (writer := tensorboard_writer(trainer)) is None:
            return
        sure, predicted, targets, inputs = self.worst
        top = sure > 0
        if not top.any():
            return
        data = datamodule_of(trainer)
        captions = [
            f"{data.classes[true]} as {data.classes[guess]}: {share:.2f}"
            for true, guess, share in zip(
                targets[top].tolist(), predicted[top].tolist(), sure[top].tolist(), strict=True
            )
        ]
        images = data.pixels(inputs[top].float())
        add_image(writer, "mistakes", image_grid(images, captions), trainer.current_epoch + 1)
