"""Show samples as the network gets them, and samples that the network gets wrong."""

import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor

from lamella.errors import RequestError
from lamella.training.objective import Objective
from lamella.visuals.pictures import drawable_names, image_grid, mask_images, with_legend
from lamella.visuals.tensorboard import (
    PictureData,
    add_image,
    are_images,
    datamodule_of,
    objective_of,
    tensorboard_writer,
)
from lamella.visuals.validation import ValidationCallback


class SampleImages(pl.Callback):
    """Draws the first training samples of each epoch as the network gets them: augmented and normalised.

    A value of -3 is black, 0 grey and 3 white, so that a wrong normalisation is visible. A mask is drawn beside its
    image. count: the number of samples.
    """

    def __init__(self, count: int = 16) -> None:
        if count < 1:
            raise RequestError(f"visuals.samples.count is {count}; it takes 1 or more", "visuals.samples.count")
        self.count = count

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: tuple[Tensor, Tensor], batch_idx: int
    ) -> None:
        drawable = isinstance(batch, tuple) and are_images(batch[0])
        if batch_idx or not drawable or (writer := tensorboard_writer(trainer)) is None:
            return
        inputs, targets = (values[: self.count] for values in batch)
        data, objective = datamodule_of(trainer), objective_of(pl_module)
        classes, targets = drawable_names(data.classes), objective.indices(targets)
        are_classes = objective.kind == "classes" and targets.dim() == 1
        captions = [[classes[target]] for target in targets.tolist()] if are_classes else ()
        title = (
            f"values from {inputs.min():.2f} to {inputs.max():.2f}, mean {inputs.mean():.2f}, std {inputs.std():.2f}"
        )
        images = inputs.float() / 6 + 0.5
        if data.has_masks:
            images = _side_by_side(images, mask_images(targets, data.ignored))
            picture = with_legend(image_grid(images, captions, title, panels=2), data.classes)
        else:
            picture = image_grid(images, captions, title)
        add_image(writer, "samples", picture, trainer.current_epoch + 1)


class Mistakes(ValidationCallback):
    """Draws the validation samples that the network gets most wrong.

    Of classes, these are the wrong ones with the highest predicted probability; the caption names the true class, the
    predicted class and its probability. Of masks, they are those with the most wrong pixels, drawn as image, true mask
    and predicted mask. Of an autoencoder, they are those with the largest mean squared error, drawn as the image before
    and after. With several processes, the samples are those of rank 0. count: the number of samples.
    """

    def __init__(self, count: int = 16) -> None:
        if count < 1:
            raise RequestError(f"visuals.mistakes.count is {count}; it takes 1 or more", "visuals.mistakes.count")
        self.count = count

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # How wrong the worst samples so far are, the answers, the targets and the inputs.
        self.worst: tuple[Tensor, ...] = ()
        data = datamodule_of(trainer)
        self.masks, self.reconstructs = data.has_masks, data.reconstructs

    def add_batch(self, inputs: Tensor, targets: Tensor, outputs: Tensor, objective: Objective) -> None:
        if not are_images(inputs):
            return
        if self.reconstructs and outputs.shape == targets.shape:
            wrong, answers = (outputs - targets).square().flatten(1).mean(1), outputs
        elif self.masks and objective.kind == "classes":
            answers = objective.predicted(outputs)
            counted = torch.ones_like(targets) if objective.ignored is None else targets != objective.ignored
            wrong = ((answers != targets) & counted).flatten(1).sum(1) / counted.flatten(1).sum(1).clamp(min=1)
        elif objective.kind == "classes" and targets.dim() == 1:
            wrong, answers = objective.probabilities(outputs).max(1)
            wrong = torch.where(answers == targets, -1.0, wrong)  # a right answer ranks below every wrong one
        else:
            return
        worst = self._top((wrong, answers, targets, inputs))
        if self.worst:
            worst = self._top(tuple(torch.cat(parts) for parts in zip(self.worst, worst, strict=True)))
        self.worst = worst

    def _top(self, samples: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the samples with the highest numbers, which are the first tensor."""
        top = samples[0].topk(min(self.count, len(samples[0]))).indices
        return tuple(part[top] for part in samples)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.worst or (writer := tensorboard_writer(trainer)) is None:
            return
        wrong = self.worst[0] > 0
        if not wrong.any():
            return
        picture = self._picture(datamodule_of(trainer), *(part[wrong] for part in self.worst))
        add_image(writer, "mistakes", picture, trainer.current_epoch + 1)

    def _picture(
        self, data: PictureData, wrong: Tensor, answers: Tensor, targets: Tensor, inputs: Tensor
    ) -> Image.Image:
        images, numbers = data.pixels(inputs.float()), wrong.tolist()
        if self.reconstructs:
            captions = [[f"error {number:.4f}"] for number in numbers]
            return image_grid(_side_by_side(images, data.pixels(answers.float())), captions, panels=2)
        if self.masks:
            captions = [[f"{number:.1%} wrong: image, true, predicted"] for number in numbers]
            drawn = _side_by_side(images, *(mask_images(masks, data.ignored) for masks in (targets, answers)))
            return with_legend(image_grid(drawn, captions, panels=3), data.classes)
        classes = drawable_names(data.classes)
        captions = [
            [classes[true], f"as {classes[guess]}", f"with {number:.2f}"]
            for true, guess, number in zip(targets.tolist(), answers.tolist(), numbers, strict=True)
        ]
        return image_grid(images, captions)


def _side_by_side(*images: Tensor) -> Tensor:
    """Return batches of images (N, channels, height, width) as one, with a white line of two pixels between them."""
    channels = max(one.shape[1] for one in images)
    parts = [one.cpu().expand(-1, channels, -1, -1) for one in images]
    line = torch.ones(*parts[0].shape[:3], 2)
    return torch.cat([part for one in parts for part in (line, one)][1:], 3)
