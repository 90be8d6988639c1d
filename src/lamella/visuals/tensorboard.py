"""Write pictures and histograms for TensorBoard, and read from a Trainer what they need."""

import io
from collections.abc import Iterable, Sequence
from typing import Protocol, cast

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import FSDPStrategy
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from lamella.data.samples import InputType, Shape
from lamella.torch_internals import add_summary
from lamella.training.objective import Objective
from lamella.training.task import Task

BINS = 64  # of a histogram


class PictureData(Protocol):
    """What the pictures use of the datamodule: see `lamella.data.Data`."""

    shape: Shape
    input_type: InputType
    classes: Sequence[str]
    ignored: int
    has_masks: bool
    reconstructs: bool

    def pixels(self, inputs: Tensor) -> Tensor:
        """Return the images (B, channels, height, width) of inputs, with values from 0 to 1."""

    def val_dataloader(self) -> Iterable[tuple[Tensor, Tensor]]:
        """Return the batches of the validation samples."""


def tensorboard_writer(trainer: pl.Trainer) -> SummaryWriter | None:
    """Return TensorBoard's writer, None where there is no TensorBoard logger and on ranks above 0."""
    if not trainer.is_global_zero:
        return None
    return next((logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)), None)


def is_sharded(trainer: pl.Trainer) -> bool:
    """Return whether each process holds only a part of the network, so that no process can run it alone."""
    return isinstance(trainer.strategy, FSDPStrategy)


def datamodule_of(trainer: pl.Trainer) -> PictureData:
    """Return the datamodule of a Trainer."""
    return cast(PictureData, trainer.datamodule)  # type: ignore[attr-defined]


def objective_of(pl_module: pl.LightningModule) -> Objective:
    """Return the objective of a `Task`, one without targets for another LightningModule."""
    return pl_module.objective if isinstance(pl_module, Task) else Objective(nn.Identity(), "other")


def network_of(pl_module: pl.LightningModule) -> nn.Module:
    """Return the network of a `Task`, or another LightningModule as a whole."""
    return pl_module.network if isinstance(pl_module, Task) else pl_module


def runs_alone(network: nn.Module) -> bool:
    """Return whether a network computes an output from a batch of inputs, without a step of the project's own."""
    return not isinstance(network, nn.ModuleDict | pl.LightningModule)


def are_images(inputs: object) -> bool:
    """Return whether inputs are a batch (B, channels, height, width) that can be drawn: with one channel or three."""
    return isinstance(inputs, Tensor) and inputs.dim() == 4 and inputs.shape[1] in (1, 3)


def add_image(writer: SummaryWriter, tag: str, picture: Image.Image, step: int) -> None:
    """Write a picture to TensorBoard, with less compression than `SummaryWriter.add_image`.

    The file is hardly larger, and encoding takes a fraction of the time.
    """
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    encoded = Summary.Image(
        height=picture.height, width=picture.width, colorspace=len(picture.mode), encoded_image_string=file.getvalue()
    )
    if not add_summary(writer, Summary(value=[Summary.Value(tag=tag, image=encoded)]), step):
        writer.add_image(tag, np.asarray(picture.convert("RGB")), step, dataformats="HWC")


def add_histogram(writer: SummaryWriter, name: str, values: Tensor, step: int) -> None:
    """Write a histogram with bins of equal width, counted on the device; values that are not finite are not written.

    `SummaryWriter.add_histogram`, whose bins grow exponentially, takes twenty times as long.
    """
    values = values.detach().flatten().float()
    low, high = (float(end) for end in values.aminmax())
    if not (low > -torch.inf and high < torch.inf):
        return
    high = high if high > low else low + 1e-6
    if torch.are_deterministic_algorithms_enabled():
        values = values.cpu()  # torch has no deterministic histc on a GPU
    counts = torch.histc(values, BINS, low, high)
    ends = torch.linspace(low, high, BINS + 1)[1:]
    writer.add_histogram_raw(
        name,
        low,
        high,
        len(values),
        float(values.sum()),
        float(values.square().sum()),
        ends.tolist(),
        counts.tolist(),
        step,
    )
