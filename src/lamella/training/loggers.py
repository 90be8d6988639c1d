"""Where the metrics of each epoch go."""

from collections.abc import Callable, Mapping
from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only


class EpochLogger(Logger):
    """Hands each epoch's metrics, with the number of epochs that are over as "epoch", to a function."""

    name, version = "epochs", ""

    def __init__(self, on_epoch: Callable[[dict[str, float]], None]) -> None:
        super().__init__()
        self.on_epoch = on_epoch

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if "train/loss" in metrics:
            self.on_epoch({"epoch": int(step or 0), **metrics})

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """There are none: the run directory holds the config."""


class EpochTensorBoard(TensorBoardLogger):
    """Lightning's TensorBoard logger, writing one events file into the run directory and nothing beside it."""

    def __init__(self, directory: str, charts: Mapping[str, list[str]]) -> None:
        super().__init__(directory, name="", version="", default_hp_metric=False)
        self.charts = charts

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if step == 1 and "train/loss" in metrics:  # once, also where the run is resumed later
            layout = {"epoch": {title: ["Multiline", tags] for title, tags in self.charts.items()}}
            self.experiment.add_custom_scalars(layout)
        super().log_metrics(dict(metrics), step)

    @rank_zero_only
    def log_hyperparams(self, params: Any, metrics: Any = None, step: int | None = None) -> None:
        """Nothing but what is called with metrics, at the end: written without them, a run would show -1."""
        if metrics:
            super().log_hyperparams(params, metrics, step)

    @rank_zero_only
    def save(self) -> None:
        self.experiment.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        # Not closed yet: the test that follows the training would open a second file.
        self.experiment.flush()

    def close(self) -> None:
        """End the thread that writes; Lightning would do so after the fit, before the test."""
        if self._experiment is not None:
            self._experiment.close()
