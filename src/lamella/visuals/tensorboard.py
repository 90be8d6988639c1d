"""How pictures and histograms get into TensorBoard."""

import io
from typing import Any

import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

# Of these networks each process holds a part, and one alone cannot run them.
SHARDED = (FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy)


def tensorboard_writer(trainer: pl.Trainer) -> SummaryWriter | None:
    """TensorBoard's writer, None where there is none: without the logger, and on all processes but the first."""
    if not trainer.is_global_zero:
        return None
    return next((logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)), None)


def datamodule_of(trainer: pl.Trainer) -> Any:
    return trainer.datamodule  # type: ignore[attr-defined]


def loss_of(pl_module: pl.LightningModule) -> nn.Module:
    loss = pl_module.loss
    assert isinstance(loss, nn.Module)
    return loss


def network_of(pl_module: pl.LightningModule) -> nn.Module:
    network = pl_module.network
    assert isinstance(network, nn.Module)
    return network


def add_image(writer: SummaryWriter, tag: str, picture: Image.Image, step: int) -> None:
    """As SummaryWriter.add_image, which takes several times as long to make a PNG that is hardly smaller."""
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    encoded = Summary.Image(
        height=picture.height, width=picture.width, colorspace=len(picture.mode), encoded_image_string=file.getvalue()
    )
    writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=encoded)]), step)  # type: ignore[no-untyped-call]


def are_images(inputs: Tensor) -> bool:
    return inputs.dim() == 4 and inputs.shape[1] in (1, 3)


BINS = 64


def add_histogram(writer: SummaryWriter, name: str, values: Tensor, step: int) -> None:
    """As SummaryWriter.add_histogram, with bins of one width that are counted on the device, twenty times as fast."""
    values = values.detach().flatten().float()
    low, high = (float(end) for end in values.aminmax())
    if not (low > -torch.inf and high < torch.inf):
        return
    high = high if high > low else low + 1e-6
    if torch.are_deterministic_algorithms_enabled():
        values = values.cpu()  # on a GPU this has no deterministic way
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
