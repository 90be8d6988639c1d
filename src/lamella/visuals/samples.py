"""Show samples as the network gets them, and samples that the network classifies wrongly."""

import pytorch_lightning as pl
import torch
from torch import Tensor

from lamella.errors import RequestError
from lamella.training.objective import Objective
from lamella.visuals.pictures import drawable_names, image_grid
from lamella.visuals.tensorboard import add_image, are_images, datamodule_of, objective_of, tensorboard_writer
from lamella.visuals.validation import ValidationCallback


class SampleImages(pl.Callback):
    """Draws the first training samples of each epoch as the network gets them: augmented and normalised.

    A value of -3 is black, 0 grey and 3 white, so that a wrong normalisation is visible. count: the number of samples.
    """

    def __init__(self, count: int = 16) -> None:
        if count < 1:
            raise RequestError(f"visuals.samples.count is {count}; it takes 1 or more", "visuals.samples.count")
        self.count = count

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: tuple[Tensor, Tensor], batch_idx: int
    ) -> None:
        if batch_idx or not are_images(batch[0]) or (writer := tensorboard_writer(trainer)) is None:
            return
        inputs, targets = (values[: self.count] for values in batch)
        classes = drawable_names(datamodule_of(trainer).classes)
        are_classes = objective_of(pl_module).kind == "classes" and targets.dim() == 1
        captions = [[classes[target]] for target in targets.tolist()] if are_classes else ()
        title = (
            f"values from {inputs.min():.2f} to {inputs.max():.2f}, mean {inputs.mean():.2f}, std {inputs.std():.2f}"
        )
        picture = image_grid(inputs.float() / 6 + 0.5, captions, title)
        add_image(writer, "samples", picture, trainer.current_epoch + 1)


class Mistakes(ValidationCallback):
    """Draws the wrongly classified validation samples with the highest predicted probability.

    The caption names the true class, the predicted class and its probability. With several processes, the samples are
    those of rank 0. count: the number of samples.
    """

    def __init__(self, count: int = 16) -> None:
        if count < 1:
            raise RequestError(f"visuals.mistakes.count is {count}; it takes 1 or more", "visuals.mistakes.count")
        self.count = count

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # The probabilities, predicted classes, true classes and inputs of the worst samples so far.
        self.worst: tuple[Tensor, ...] = ()

    def add_batch(self, inputs: Tensor, targets: Tensor, outputs: Tensor, objective: Objective) -> None:
        if not are_images(inputs) or objective.kind != "classes" or targets.dim() != 1:
            return
        share, predicted = objective.probabilities(outputs).max(1)
        share = torch.where(predicted == targets, -1.0, share)  # a right answer ranks below every wrong one
        worst = self._top((share, predicted, targets, inputs))
        if self.worst:
            worst = self._top(tuple(torch.cat(parts) for parts in zip(self.worst, worst, strict=True)))
        self.worst = worst

    def _top(self, samples: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the samples with the highest probabilities, which are the first tensor."""
        top = samples[0].topk(min(self.count, len(samples[0]))).indices
        return tuple(part[top] for part in samples)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.worst or (writer := tensorboard_writer(trainer)) is None:
            return
        wrong = self.worst[0] > 0
        if not wrong.any():
            return
        share, predicted, targets, inputs = (part[wrong] for part in self.worst)
        data = datamodule_of(trainer)
        classes = drawable_names(data.classes)
        captions = [
            (classes[true], f"as {classes[guess]}", f"with {probability:.2f}")
            for true, guess, probability in zip(targets.tolist(), predicted.tolist(), share.tolist(), strict=True)
        ]
        images = data.pixels(inputs.float())
        add_image(writer, "mistakes", image_grid(images, captions), trainer.current_epoch + 1)
