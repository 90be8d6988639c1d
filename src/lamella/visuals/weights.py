"""Weights, gradients and activations."""

import pytorch_lightning as pl
from torch import Tensor

from lamella.inspection.activations import layer_outputs
from lamella.visuals.pictures import weight_picture
from lamella.visuals.tensorboard import SHARDED, add_histogram, add_image, datamodule_of, network_of, tensorboard_writer


class Weights(pl.Callback):
    """The weights of the first layer as images, where it looks at images."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        writer, first = tensorboard_writer(trainer), next(network_of(pl_module).parameters(), None)
        picture = weight_picture(first, datamodule_of(trainer).shape) if writer and first is not None else None
        if writer and picture is not None:
            add_image(writer, "weights", picture, trainer.current_epoch + 1)


class Histograms(pl.Callback):
    """Weights, the gradients of the epoch's last step, and what each layer gives for the first validation batch."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        writer, network = tensorboard_writer(trainer), network_of(pl_module)
        if writer is None:
            return
        found: dict[str, Tensor] = {f"weights/{name}": value.detach() for name, value in network.named_parameters()}
        found |= {
            f"gradients/{name}": value.grad for name, value in network.named_parameters() if value.grad is not None
        }
        batch = next(iter(datamodule_of(trainer).val_dataloader()), None)
        if batch is not None and not isinstance(trainer.strategy, SHARDED):
            inputs = trainer.precision_plugin.convert_input(batch[0])
            with trainer.precision_plugin.forward_context():
                given = layer_outputs(network, inputs)
            found |= {f"activations/{name}": value for name, value in given.items()}
        for name, values in found.items():
            add_histogram(writer, name, values, trainer.current_epoch + 1)
