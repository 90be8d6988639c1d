"""A callback that looks at each batch of a validation."""

import pytorch_lightning as pl
from torch import Tensor

from lamella.training.objective import Objective
from lamella.visuals.tensorboard import objective_of


class ValidationCallback(pl.Callback):
    """Hands the inputs, targets and outputs of each validation batch to `add_batch`, which a subclass defines."""

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: tuple[Tensor, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if (
            isinstance(outputs, Tensor) and outputs.dim() and isinstance(batch, tuple)
        ):  # a step of the project's own may give none, or a loss
            self.add_batch(*batch, outputs, objective_of(pl_module))

    def add_batch(self, inputs: Tensor, targets: Tensor, outputs: Tensor, objective: Objective) -> None:
        """Keep what the picture needs of a batch. outputs: of the network."""
        raise NotImplementedError
