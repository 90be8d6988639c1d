"""Read the keys of the config group `trainer` that stand for a callback: ema, swa, early_stopping and keep_top."""

from dataclasses import dataclass

import pytorch_lightning as pl

from lamella.config.values import Config
from lamella.errors import RequestError
from lamella.training.averaging import Averages
from lamella.training.early_stopping import EpochStopping


@dataclass(frozen=True)
class Recipe:
    """What a run does beside the steps of its optimizer. None leaves a part out.

    ema: the decay of an exponential moving average of the weights. swa: the first epoch whose weights are averaged
    equally. early_stopping: the number of epochs without a better metric after which the run ends. keep_top: of how
    many of the best epochs the checkpoints are kept.
    """

    ema: float | None
    swa: int | None
    early_stopping: int | None
    keep_top: int | None

    @classmethod
    def of(cls, node: Config) -> "Recipe":
        """Return what the config group `trainer` asks for. Raises RequestError for a value that is not allowed."""
        ema, swa = node.get("ema"), _count(node, "swa")
        if ema is not None and (isinstance(ema, bool) or not isinstance(ema, int | float) or not 0 < ema < 1):
            raise RequestError(
                f"trainer.ema is {ema!r}; it takes a decay between 0 and 1, such as 0.999, or null", "trainer.ema"
            )
        if ema is not None and swa is not None:
            raise RequestError(
                f"trainer.swa is {swa}, and trainer.ema is {ema}: a run has one average of its weights; leave one out",
                "trainer.swa",
            )
        return cls(ema, swa, _count(node, "early_stopping"), _count(node, "keep_top"))

    @property
    def average(self) -> str | None:
        """Return the name of the key that averages the weights."""
        return "ema" if self.ema is not None else "swa" if self.swa is not None else None

    def callbacks(self, monitor: str, mode: str) -> list[pl.Callback]:
        """Return the callbacks that do it, new ones for each Trainer. monitor: the metric of the best epoch.

        mode: "min" or "max".
        """
        averages = [Averages(self.ema, self.swa)] if self.average else []
        patience = self.early_stopping
        return [*averages, *([EpochStopping(monitor, patience, mode)] if patience is not None else [])]


def _count(node: Config, name: str) -> int | None:
    """Return the value of a key that counts epochs."""
    value = node.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise RequestError(
            f"trainer.{name} is {value!r}; it takes a number of epochs from 1 on, or null", f"trainer.{name}"
        )
    return value
