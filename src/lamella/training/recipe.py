"""Read the keys of the config group `trainer` that stand for a callback, such as ema and early_stopping."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping, WeightAveraging
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy

from lamella.config.values import Config
from lamella.errors import RequestError
from lamella.training.averaging import Averages
from lamella.training.device import strategy_kind
from lamella.training.early_stopping import EpochStopping


@dataclass(frozen=True)
class Recipe:
    """What a run does beside the steps of its optimizer. None leaves a part out.

    ema: the decay of an exponential moving average of the weights. swa: the first epoch whose weights are averaged
    equally. early_stopping: the number of epochs without a better metric after which the run ends. keep_top: of how
    many of the best epochs the checkpoints are kept. profile: whether the time of some steps is measured.
    """

    ema: float | None
    swa: int | None
    early_stopping: int | None
    keep_top: int | None
    profile: bool

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
        if not isinstance(profile := node.get("profile", False), bool):
            raise RequestError(f"trainer.profile is {profile!r}; it takes true or false", "trainer.profile")
        return cls(ema, swa, _count(node, "early_stopping"), _count(node, "keep_top"), profile)

    @property
    def average(self) -> str | None:
        """Return the name of the key that averages the weights."""
        return "ema" if self.ema is not None else "swa" if self.swa is not None else None

    def check_task(self, is_task: bool, has_several_optimizers: bool) -> None:
        """Raise RequestError for what cannot be done for this LightningModule.

        is_task: whether it is a Task. has_several_optimizers: whether these take turns.
        """
        if self.average and (has_several_optimizers or not is_task):
            key = f"trainer.{self.average}"
            raise RequestError(f"{key} averages the weights of a lamella.Task with one optimizer; leave it out", key)
        if self.early_stopping is not None and not is_task:
            raise RequestError(
                "trainer.early_stopping watches a lamella.Task; write trainer.callbacks=[{_target_:\n"
                "  pytorch_lightning.callbacks.EarlyStopping, monitor: val_loss}] with the name that the module logs",
                "trainer.early_stopping",
            )

    def callbacks(self, monitor: str, mode: str) -> list[pl.Callback]:
        """Return the callbacks that do it, new ones for each Trainer. monitor: the metric of the best epoch.

        mode: "min" or "max".
        """
        averages = [Averages(self.ema, self.swa)] if self.average else []
        patience = self.early_stopping
        return [*averages, *([EpochStopping(monitor, patience, mode)] if patience is not None else [])]


def check_recipe(
    recipe: Recipe, options: Config, kinds: Sequence[type], monitor: str, precision: object, epochs: object
) -> None:
    """Raise RequestError for averages, early stopping and kept checkpoints that would change nothing or cannot work.

    options: the config group `trainer`. kinds: the classes in `trainer.callbacks`. monitor: the metric of the best
    epoch. precision: as `device.precision`. epochs: of the run, None where something else limits it.
    """
    for name, theirs in (("early_stopping", EarlyStopping), (recipe.average, WeightAveraging)):
        number = next((number for number, kind in enumerate(kinds) if issubclass(kind, theirs)), None)
        if name and options.get(name) is not None and number is not None:
            raise RequestError(
                f"trainer.{name} does what trainer.callbacks.{number}, {kinds[number].__name__}, does; leave one out",
                f"trainer.{name}",
            )
    for name in ("early_stopping", "keep_top"):
        if (
            options.get(name) is not None
            and monitor.startswith("val/")
            and options.get("limit_val_batches") in (0, 0.0)
        ):
            raise RequestError(
                f"trainer.{name} goes by {monitor} (monitor), and the trainer's limits leave no validation",
                f"trainer.{name}",
            )
    if recipe.profile and options.get("profiler"):
        raise RequestError(
            "trainer.profile measures some steps, and trainer.profiler all of them; leave one of them out",
            "trainer.profile",
        )
    key = f"trainer.{recipe.average}"
    if not recipe.average:
        return
    kind, _ = strategy_kind(options)
    if not issubclass(kind, SingleDeviceStrategy | DDPStrategy):
        raise RequestError(
            f"{key} averages whole weights, and trainer.strategy, {kind.__name__}, may divide them; use trainer=ddp",
            key,
        )
    if str(precision).endswith("16-true") or str(precision).startswith("transformer-engine"):
        raise RequestError(
            f"{key} adds a small share of the weights to their average, and device.precision={precision} rounds such a "
            "share away; use device.precision=bf16-mixed",
            key,
        )
    if recipe.swa is not None and isinstance(epochs, int) and recipe.swa > epochs:
        raise RequestError(
            f"trainer.swa is {recipe.swa}, but the run ends after epoch {epochs} (trainer.max_epochs), so that nothing "
            "would be averaged",
            key,
        )


def _count(node: Config, name: str) -> int | None:
    """Return the value of a key that counts epochs."""
    value = node.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise RequestError(
            f"trainer.{name} is {value!r}; it takes a number of epochs from 1 on, or null", f"trainer.{name}"
        )
    return value
