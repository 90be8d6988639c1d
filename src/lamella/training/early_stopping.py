"""End a run early, for the key `trainer.early_stopping`."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping


class EpochStopping(EarlyStopping):
    """Lightning's EarlyStopping that counts epochs, and of those only the ones that have their metric.

    monitor: the name of a metric; where it is one of the validation, epochs without a validation do not count.
    patience: the run ends after so many epochs that are not better than the best one before. mode: "min" or "max".
    """

    def __init__(self, monitor: str, patience: int, mode: str) -> None:
        super().__init__(
            monitor, patience=patience, mode=mode, check_finite=False, check_on_train_epoch_end=True, strict=True
        )
        self.validated = False  # whether the running epoch has had a validation

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.validated = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.validated or not self.monitor.startswith("val/"):
            super().on_train_epoch_end(trainer, pl_module)
        self.validated = False
        if self.stopping_reason_message is not None:
            self.stopping_reason_message = f"{self.monitor} was not better in {self.wait_count} epochs"

    def state_dict(self) -> dict[str, object]:
        return {**super().state_dict(), "validated": self.validated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # The patience is that of the config, which may be another one when the run is resumed.
        super().load_state_dict({**state_dict, "patience": self.patience})
        self.validated = state_dict["validated"]
