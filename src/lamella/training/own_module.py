"""Train a LightningModule of the project's own: what `Task` does by itself, as a callback."""

import inspect
import math
import re
import time
from collections.abc import Collection, Mapping, Sequence
from typing import TypedDict

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.loggers import Logger
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from lamella import seeds
from lamella.distributed import of_all_ranks
from lamella.errors import RequestError, first_line, own_frames
from lamella.lightning_internals import logged_state, logged_values, restore_logged, set_update_count
from lamella.runs.checkpoints import StateDict
from lamella.training.non_finite import NonFiniteLoss

# The beginnings of names by which a module may say in which stage it logs a value.
BEGINNINGS = {"train": "train|training", "val": "val|valid|validation", "test": "test"}
KEY = "logged"  # of a SavedEpoch in a checkpoint


class SavedEpoch(TypedDict):
    """What one rank has logged in an unfinished epoch.

    seconds: since the epoch began. val: the metrics of the last validation. logged: as `logged_state` returns it.
    metrics: for each metric of torchmetrics in the module, how often it was updated, and its state.
    """

    seconds: float
    val: dict[str, float]
    logged: list[tuple[dict[str, object], dict[str, Tensor]]]
    metrics: dict[str, tuple[int, dict[str, object]]]


class OwnModule(Checkpoint):
    """A callback that seeds the batches of a LightningModule, and hands the values of each epoch to loggers.

    The random generators are seeded before each training batch, and before each validation and test. Values that were
    logged in an unfinished epoch are saved, so that a resumed epoch has the metrics that it would have had.

    loggers: those of Lamella. given: the arguments of the constructor that are objects. They are left out of the
    hyperparameters in a checkpoint, because the config describes them.

    It is a Checkpoint because Lightning calls `on_train_epoch_end` of such callbacks after that of the module, which
    may log values too.
    """

    def __init__(self, seed: int, loggers: Sequence[Logger], given: Collection[str]) -> None:
        self.seed, self.loggers, self.given = seed, loggers, given
        self.val: dict[str, float] = {}
        self.started, self.unfinished = time.perf_counter(), False
        self.saved: SavedEpoch | None = None  # set until the first batch after a resume in the middle of an epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started, self.val = time.perf_counter(), {}

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Seed the random generators for this batch."""
        if self.saved is not None:
            restore_logged(trainer, self.saved["logged"])
            _restore_metrics(pl_module, self.saved["metrics"])
            self.saved = None
        self.unfinished = True
        count = 1 << batch_idx.bit_length()  # the number of batches of a stream is not known
        numbers = seeds.batch_seeds(self.seed, trainer.global_rank, trainer.current_epoch, count)
        seeds.reseed(numbers[batch_idx], pl_module.device)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        seeds.reseed(self.seed, pl_module.device)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.val = by_stage("val", logged_values(trainer))
        check_logged_losses(self.val, trainer.current_epoch + 1)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        seeds.reseed(self.seed, pl_module.device)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hand the values of the epoch, with those of its validation and the time, to the loggers."""
        self.unfinished, epoch = False, trainer.current_epoch + 1
        train = by_stage("train", logged_values(trainer))
        check_logged_losses(train, epoch)
        for logger in self.loggers:
            logger.log_metrics({**train, **self.val, "seconds": time.perf_counter() - self.started}, epoch)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: StateDict) -> None:
        """Save what all ranks have logged in an unfinished epoch."""
        if parameters := checkpoint.get(pl_module.CHECKPOINT_HYPER_PARAMS_KEY):
            kept = {name: value for name, value in parameters.items() if name not in self.given}
            checkpoint[pl_module.CHECKPOINT_HYPER_PARAMS_KEY] = kept
        if self.unfinished:
            state: SavedEpoch = {
                "seconds": time.perf_counter() - self.started,
                "val": self.val,
                "logged": logged_state(trainer),
                "metrics": _metric_states(pl_module),
            }
            checkpoint[KEY] = of_all_ranks(state)

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: StateDict) -> None:
        """Take up what this rank had logged. Raises RequestError if the number of processes is another one."""
        saved: list[SavedEpoch] | None = checkpoint.get(KEY)
        if not saved or not trainer.training:  # the test loads a checkpoint too
            return
        if len(saved) != trainer.world_size:
            raise RequestError(
                f"trainer.devices: the run is in the middle of an epoch on {len(saved)} processes, "
                f"and cannot go on with {trainer.world_size}",
                "trainer.devices",
            )
        self.saved = saved[trainer.global_rank]
        self.val, self.started = self.saved["val"], time.perf_counter() - self.saved["seconds"]


def by_stage(stage: str, values: Mapping[str, float]) -> dict[str, float]:
    """Return logged values by the names of Lamella's metrics: `loss`, `val_loss` and `val/loss` become val/loss.

    stage: train, val or test.
    """
    found: dict[str, float] = {}
    for name, value in values.items():
        short = re.sub(rf"^({BEGINNINGS[stage]})[_/]", "", name)
        found[f"{stage}/{name if f'{stage}/{short}' in found else short}"] = value
    return found


def logged_names(metric: str) -> list[str]:
    """Return the names by which a module may have logged a metric such as val/loss, the likeliest first."""
    stage, _, name = metric.partition("/")
    beginnings = BEGINNINGS[stage].split("|") if stage in BEGINNINGS else []
    return [metric, *(f"{beginning}{sign}{name}" for beginning in beginnings for sign in "_/"), name]


def check_logged_losses(values: Mapping[str, float], epoch: int | None = None) -> None:
    """Raise NonFiniteLoss for a loss that is not finite. epoch: counted from 1, None for the test."""
    for name, value in values.items():
        if "loss" in name and not math.isfinite(value):
            raise NonFiniteLoss(f"{name} is {value}" + (f" in epoch {epoch}" if epoch else ""))


def defines(kind: type[pl.LightningModule], name: str) -> bool:
    """Return whether a class of LightningModule defines the method `name`, which Lightning leaves to it."""
    return getattr(kind, name) is not getattr(pl.LightningModule, name)


def answers(module: pl.LightningModule, inputs: Tensor) -> Tensor:
    """Return what `predict_step` gives for inputs (N, …), or `forward` where the module defines no predict_step.

    Raises RequestError where it defines neither, where it fails, and where it gives no tensor (N, …).
    """
    name = next((name for name in ("predict_step", "forward") if defines(type(module), name)), None)
    if name is None:
        raise RequestError(f"{title(type(module))} has neither predict_step nor forward, so it cannot predict")
    call, place = getattr(module, name), f"{title(type(module))}.{name}"
    arguments = (inputs, 0)[: len(inspect.signature(call).parameters)] if name == "predict_step" else (inputs,)
    try:
        found = call(*arguments)
    except Exception as error:
        message = f"{place} fails for inputs {tuple(inputs.shape)}: {first_line(error)}{own_frames(error)}"
        raise RequestError(message) from error
    if not isinstance(found, Tensor) or not found.dim() or len(found) != len(inputs):
        given = f"a tensor {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise RequestError(f"{place} gives {given} for {len(inputs)} samples; a prediction is a tensor (N, …)")
    return found


def title(kind: type) -> str:
    """Return the name of a class for messages, as gan.GAN."""
    return f"{kind.__module__}.{kind.__qualname__}"


def _metric_states(module: pl.LightningModule) -> dict[str, tuple[int, dict[str, object]]]:
    """Return the number of updates and the state, on the CPU, of each metric of torchmetrics that has been updated."""
    for collection in module.modules():
        if isinstance(collection, MetricCollection):
            collection.items(copy_state=False)  # members with equal states are otherwise updated when they are read
    return {
        name: (metric.update_count, {key: _on_cpu(value) for key, value in metric.metric_state.items()})
        for name, metric in module.named_modules()
        if isinstance(metric, Metric) and metric.update_called
    }


def _restore_metrics(module: pl.LightningModule, states: Mapping[str, tuple[int, dict[str, object]]]) -> None:
    for name, (count, state) in states.items():
        metric = module.get_submodule(name)
        assert isinstance(metric, Metric)
        for key, value in state.items():
            setattr(metric, key, value)
        set_update_count(metric, count)
        metric.to(module.device)


def _on_cpu(value: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
    return [one.cpu() for one in value] if isinstance(value, list) else value.cpu()
