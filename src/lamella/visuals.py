"""What a run draws in TensorBoard beside its scalars: one callback a picture, each once or once an epoch."""

import copy
import io
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from lamella import pictures
from lamella.activations import evaluation, outputs
from lamella.errors import RequestError, first_line
from lamella.losses import probabilities

# Of these networks each process holds a part, and one alone cannot run them.
SHARDED = (FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy)


def _writer(trainer: pl.Trainer) -> SummaryWriter | None:
    """TensorBoard's writer, None where there is none: without the logger, and on all processes but the first."""
    if not trainer.is_global_zero:
        return None
    return next((logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)), None)


def _data(trainer: pl.Trainer) -> Any:
    return trainer.datamodule  # type: ignore[attr-defined]


def _loss(pl_module: pl.LightningModule) -> nn.Module:
    loss = pl_module.loss
    assert isinstance(loss, nn.Module)
    return loss


def _network(pl_module: pl.LightningModule) -> nn.Module:
    network = pl_module.network
    assert isinstance(network, nn.Module)
    return network


def _add_image(writer: SummaryWriter, tag: str, picture: Image.Image, step: int) -> None:
    """As SummaryWriter.add_image, which takes several times as long to make a PNG that is hardly smaller."""
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    encoded = Summary.Image(
        height=picture.height, width=picture.width, colorspace=len(picture.mode), encoded_image_string=file.getvalue()
    )
    writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=encoded)]), step)  # type: ignore[no-untyped-call]


def _images(inputs: Tensor) -> bool:
    return inputs.dim() == 4 and inputs.shape[1] in (1, 3)


class Text(pl.Callback):
    """The resolved config and the structure of the network."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        writer, config = _writer(trainer), Path(trainer.default_root_dir) / "config.yaml"
        if writer and not trainer.global_step:
            writer.add_text("structure", _block(str(_network(pl_module))))
            if config.is_file():
                writer.add_text("config", _block(config.read_text()))


def _block(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


class Graph(pl.Callback):
    """The network's graph, as it is traced on one sample."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        writer = _writer(trainer)
        if writer is None or trainer.global_step or isinstance(trainer.strategy, SHARDED):
            return
        network = copy.deepcopy(_network(pl_module))
        sample = torch.zeros(1, *_data(trainer).shape, device=pl_module.device)
        try:
            with warnings.catch_warnings(), evaluation(network), trainer.precision_plugin.forward_context():
                warnings.simplefilter("ignore")  # tracing is deprecated, and TensorBoard reads nothing else
                writer.add_graph(network, trainer.precision_plugin.convert_input(sample), use_strict_trace=False)
        except Exception as error:
            print(f"visuals.graph: this network cannot be traced: {first_line(error)}")


class Samples(pl.Callback):
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
        if batch_idx or not _images(batch[0]) or (writer := _writer(trainer)) is None:
            return
        inputs, targets = (values[: self.count] for values in batch)
        classes = _data(trainer).classes
        captions = [classes[target] for target in targets.tolist()] if targets.dtype == torch.int64 else ()
        title = (
            f"values from {inputs.min():.2f} to {inputs.max():.2f}, mean {inputs.mean():.2f}, std {inputs.std():.2f}"
        )
        picture = pictures.grid(inputs.float() / 6 + 0.5, captions, title)
        _add_image(writer, "samples", picture, trainer.current_epoch + 1)


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
        if not _images(inputs) or targets.dtype != torch.int64:
            return
        sure, predicted = probabilities(outputs, _loss(pl_module)).max(1)
        sure = torch.where(predicted == targets, -1.0, sure)
        top = sure.topk(min(self.count, len(sure))).indices
        found: tuple[Tensor, ...] = (sure[top], predicted[top], targets[top], inputs[top])
        if self.worst:
            found = tuple(torch.cat(parts) for parts in zip(self.worst, found, strict=True))
        top = found[0].topk(min(self.count, len(found[0]))).indices
        self.worst = tuple(part[top] for part in found)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.worst or (writer := _writer(trainer)) is None:
            return
        sure, predicted, targets, inputs = self.worst
        top = sure > 0
        if not top.any():
            return
        data = _data(trainer)
        captions = [
            f"{data.classes[true]} as {data.classes[guess]}: {share:.2f}"
            for true, guess, share in zip(
                targets[top].tolist(), predicted[top].tolist(), sure[top].tolist(), strict=True
            )
        ]
        images = data.pixels(inputs[top].float())
        _add_image(writer, "mistakes", pictures.grid(images, captions), trainer.current_epoch + 1)


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
        count = outputs.shape[1]
        pairs = torch.bincount(targets * count + outputs.argmax(1), minlength=count * count)
        self.counts = pairs if self.counts is None else self.counts + pairs

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.counts is None:
            return
        if trainer.world_size > 1:
            self.counts = trainer.strategy.reduce(self.counts, reduce_op="sum")
        if writer := _writer(trainer):
            classes = _data(trainer).classes
            picture = pictures.confusion(self.counts.view(len(classes), -1).cpu(), classes)
            _add_image(writer, "confusion", picture, trainer.current_epoch + 1)


class Weights(pl.Callback):
    """The weights of the first layer as images, where it looks at images."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        writer, first = _writer(trainer), next(_network(pl_module).parameters(), None)
        picture = pictures.weights(first, _data(trainer).shape) if writer and first is not None else None
        if writer and picture is not None:
            _add_image(writer, "weights", picture, trainer.current_epoch + 1)


class Histograms(pl.Callback):
    """Weights, the gradients of the epoch's last step, and what each layer gives for the first validation batch."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        writer, network = _writer(trainer), _network(pl_module)
        if writer is None:
            return
        found: dict[str, Tensor] = {f"weights/{name}": value.detach() for name, value in network.named_parameters()}
        found |= {
            f"gradients/{name}": value.grad for name, value in network.named_parameters() if value.grad is not None
        }
        batch = next(iter(_data(trainer).val_dataloader()), None)
        if batch is not None and not isinstance(trainer.strategy, SHARDED):
            inputs = trainer.precision_plugin.convert_input(batch[0])
            with trainer.precision_plugin.forward_context():
                given = outputs(network, inputs)
            found |= {f"activations/{name}": value for name, value in given.items()}
        for name, values in found.items():
            add_histogram(writer, name, values, trainer.current_epoch + 1)


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
            self.parts.append((probabilities(outputs, _loss(pl_module)), batch[1]))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        writer = _writer(trainer)
        if writer is None or not self.parts:
            return
        sure, targets = (torch.cat(parts).cpu() for parts in zip(*self.parts, strict=True))
        for number, name in enumerate(_data(trainer).classes):
            writer.add_pr_curve(
                f"precision_recall/{name}", targets == number, sure[:, number], trainer.current_epoch + 1
            )
