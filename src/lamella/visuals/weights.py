"""Show weights, gradients and activations."""

import pytorch_lightning as pl
from torch import Tensor

from lamella.inspection.activations import layer_outputs
from lamella.lightning_internals import trainer_precision
from lamella.visuals.pictures import weight_picture
from lamella.visuals.tensorboard import (
    add_histogram,
    add_image,
    datamodule_of,
    is_sharded,
    network_of,
    runs_alone,
    tensorboard_writer,
)


class Weights(pl.Callback):
    """Draws the weights of the first layer as images, if the layer takes images."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        writer, first = tensorboard_writer(trainer), next(network_of(pl_module).parameters(), None)
        shape = datamodule_of(trainer).shape
        picture = weight_picture(first, shape) if writer and first is not None and isinstance(shape, tuple) else None
        if writer and picture is not None:
            add_image(writer, "weights", picture, trainer.current_epoch + 1)


class Histograms(pl.Callback):
    """Draws histograms of the weights, the gradients of an epoch's last step, and the layers' outputs.

    The outputs are those for the first validation batch.
    """

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        writer, network = tensorboard_writer(trainer), network_of(pl_module)
        if writer is None:
            return
        tensors: dict[str, Tensor] = {f"weights/{name}": value.detach() for name, value in network.named_parameters()}
        tensors |= {
            f"gradients/{name}": value.grad for name, value in network.named_parameters() if value.grad is not None
        }
        batch = next(iter(datamodule_of(trainer).val_dataloader()), None)
        if isinstance(batch, tuple) and not is_sharded(trainer) and runs_alone(network):
            with trainer_precision(trainer, batch[0]) as inputs:
                outputs = layer_outputs(network, inputs)
            tensors |= {f"activations/{name}": value for name, value in outputs.items()}
        for name, values in tensors.items():
            add_histogram(writer, name, values, trainer.current_epoch + 1)
