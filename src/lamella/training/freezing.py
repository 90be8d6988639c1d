"""Train parameters that are frozen in the first epochs: thaw them by the number of the epoch."""

import math

import pytorch_lightning as pl
from torch import nn

from lamella.network.freeze import Freeze, freeze_parameters, last_frozen_epochs


class Freezing(pl.Callback):
    """A callback that freezes and thaws parameters at the start of each epoch.

    What is frozen depends on the number of the epoch alone, so that nothing has to be saved. The optimizer is made
    before the training starts, of all parameters that are trained in any epoch; it passes over those without gradient.

    freeze: as in `freeze_parameters`, of the network of the task.
    """

    def __init__(self, freeze: Freeze) -> None:
        self.freeze = freeze

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Freeze what the epoch freezes in the middle of which a run goes on."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        network = pl_module.network
        assert isinstance(network, nn.Module)
        freeze_parameters(network, self.freeze, trainer.current_epoch + 1)


def thawed_names(network: nn.Module, freeze: Freeze) -> set[str]:
    """Return the names of the parameters and buffers that are frozen in the first epochs alone."""
    return {name for name, last in last_frozen_epochs(network, freeze).items() if math.isfinite(last)}
