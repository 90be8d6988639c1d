"""Save a run so that it continues exactly where it was left, and decide when to save.

The keys of a checkpoint:

| key | what it holds |
| --- | --- |
| `state_dict` | the parameters and buffers of the LightningModule, by name, or an average of them |
| `current_model_state` | those in training, where `state_dict` holds an average; no such key otherwise |
| `optimizer_states`, `lr_schedulers` | the states of the optimizers, and of the scheduler of each, as lists |
| `epoch`, `global_step`, `loops` | the counters of Lightning's loops |
| `callbacks` | the states by `state_key`: for `Checkpoints` a `SavedState`, for `SampleMetrics` the best validation |
| `Data` | the number of samples of each split, and checksums of inputs and targets, from `lamella.data.Data` |
| `OwnData` | the same of the first batches, from `lamella.data.OwnData`, in place of `Data` |
| `counters` | what `Task` has counted in an unfinished epoch, a `SavedPass`; no such key between epochs |
| `logged` | what another LightningModule has logged in an unfinished epoch: a list of `SavedEpoch`, one for each rank |
| `pytorch-lightning_version` | not read by Lamella |

Lightning names the entry of a callback and of a datamodule after the class. `Checkpoints.state_key` keeps the first
name whatever the class is called, and a test keeps the second one.
"""

import math
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NotRequired, TypedDict

import pytorch_lightning as pl
import torch

from lamella.atomic_files import replace_link, sync
from lamella.console import print
from lamella.distributed import rank
from lamella.interrupts import Interrupted, Interrupts
from lamella.lightning_internals import (
    begin_resumed_epoch,
    continue_resumed_epoch,
    restore_callback_metrics,
    resume_from,
)
from lamella.runs.checkpoints import STATE_KEY, StateDict
from lamella.runs.files import BEST, EPOCHS, LAST, NEW, PREVIOUS, epoch_checkpoint, sync_growing_files
from lamella.runs.identity import Identity
from lamella.training.checkpoint_interval import CheckpointInterval


class SavedState(TypedDict):
    """The state of Checkpoints in a checkpoint.

    best_epoch: the number of the best epoch, 0 if no epoch is over. metrics: `train/…` and `val/…` of the best epoch.
    epochs: the number of finished epochs. batches: how many batches of the next epoch are trained. stopped: the
    `max_epochs` of a run that was stopped early, None for other runs. patience: that of each EarlyStopping. files: the
    size in bytes of each file that grows while the run trains, by name. run: the run's identity. frozen: the names of
    the parameters that get no gradients. top: by their numbers the epochs whose checkpoints are kept, with their rank.
    """

    best_epoch: int
    metrics: dict[str, float]
    epochs: int
    batches: int
    stopped: int | None
    accumulate_grad_batches: int
    callback_metrics: dict[str, float]
    files: dict[str, int]
    # Not in checkpoints of earlier versions:
    run: NotRequired[Identity]
    frozen: NotRequired[list[str]]
    patience: NotRequired[list[int]]
    top: NotRequired[dict[int, tuple[float, float]]]


class Checkpoints(pl.Callback):
    """A callback that saves `last.ckpt`, `previous.ckpt` and `best.ckpt` in the `checkpoints` folder of a run.

    `last.ckpt` is written after each epoch, and within an epoch as often as `every` says. `previous.ckpt` is the
    `last.ckpt` before it. `best.ckpt` is the checkpoint after the best epoch: of equal ones that with the lowest
    `val/loss`, and of those the last. An epoch without the monitored metric, because it was not validated, is not
    compared; as long as no epoch has the metric, the last epoch is the best. Of the `keep_top` best epochs, the
    checkpoints are kept as `epoch-007.ckpt` and so on.

    run: the run directory. monitor: the name of a metric. mode: "min" or "max". identity: of the run, which each
    checkpoint carries. scheduled: the names of the parameters that the number of the epoch freezes or thaws.

    A run is saved only between batches: when the previous batch is completely finished, its validation and schedulers
    included, and the optimizer has taken its step; for the last batch of an epoch, when the metrics of the epoch are
    written too. The files that grow while a run trains are flushed first, and their sizes are saved, so that what is
    written after a checkpoint can be cut off. Raises Interrupted after a signal, once everything is saved.

    This callback must be the first one, so that a batch is saved either before or after all that the others do for it.
    """

    def __init__(
        self,
        run: Path,
        monitor: str,
        mode: str,
        every: CheckpointInterval,
        interrupts: Interrupts,
        identity: Identity,
        scheduled: Collection[str] = (),
        keep_top: int = 0,
    ) -> None:
        directory = run / "checkpoints"
        self.run, self.last, self.previous, self.best = run, directory / LAST, directory / PREVIOUS, directory / BEST
        self.new = directory / NEW
        self.started = False
        self.monitor, self.sign = monitor, 1.0 if mode == "max" else -1.0
        self.every, self.interrupts, self.identity = every, interrupts, identity
        self.scheduled = scheduled
        self.best_epoch, self.metrics = 0, dict[str, float]()
        self.keep_top, self.top = keep_top, dict[int, tuple[float, float]]()
        self.better = False
        self.saved_step, self.saved_time = 0, 0.0
        self.state: SavedState | None = None
        self.stepped: int | None = None  # optimizer steps at the checkpoint; set until the resumed run begins a batch

    @property
    def state_key(self) -> str:
        """Return the key of the state in a checkpoint, which must stay, whatever this class is called."""
        return STATE_KEY

    def due(self, step: int) -> float:
        """Return how many optimizer steps after `step` the run is saved because of the number of steps."""
        left = self.saved_step + self.every.steps - step
        return left if left > 0 else self.every.steps

    def compare(self, metrics: Mapping[str, float]) -> None:
        """Keep the metrics of a finished epoch if it is the best one so far."""
        kept = {name: value for name, value in metrics.items() if name.startswith(("train/", "val/"))}
        if self._rank(kept) >= self._rank(self.metrics):
            self.better, self.best_epoch, self.metrics = True, int(metrics["epoch"]), kept
        if self.monitor in kept:
            ranked = {**self.top, int(metrics["epoch"]): self._rank(kept)}
            best_first = sorted(ranked, key=lambda epoch: (ranked[epoch], epoch), reverse=True)
            self.top = {epoch: ranked[epoch] for epoch in best_first[: self.keep_top]}

    def _rank(self, metrics: Mapping[str, float]) -> tuple[float, float]:
        """Return numbers that are larger for better metrics of an epoch: by the monitored metric, then by the loss."""
        return self.sign * metrics.get(self.monitor, -self.sign * math.inf), -metrics.get("val/loss", math.inf)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen to signals, and restore what Lightning does not restore when it resumes."""
        self.interrupts.listen()
        self.started = True
        self.saved_step, self.saved_time = trainer.global_step, time.monotonic()
        if not self.state:
            return
        restore_callback_metrics(trainer, self.state["callback_metrics"])
        if not self.state["batches"]:
            begin_resumed_epoch(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._freeze_again(pl_module)
        self._epoch_over(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._epoch_over(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Save the run before a batch if it is time to, or if a signal asks for the end."""
        if self.stepped is not None and self.state:
            continue_resumed_epoch(trainer, self.stepped)
            if batch_idx:
                self._freeze_again(pl_module)
                # A callback may have changed the number at the beginning of the epoch, which is not run again.
                trainer.accumulate_grad_batches = self.state["accumulate_grad_batches"]
            self.stepped = None
        if batch_idx == 0 or batch_idx % trainer.accumulate_grad_batches:
            return
        steps = trainer.global_step - self.saved_step
        due = steps >= self.every.steps or time.monotonic() - self.saved_time >= self.every.seconds
        signal, due = self._agreed(trainer, due)
        if signal or due:
            if steps:
                self._save(trainer, batch_idx)
            self._leave(trainer, signal)

    def _freeze_again(self, pl_module: pl.LightningModule) -> None:
        """Set requires_grad of each parameter as it was at the checkpoint from which the run goes on.

        A callback may have changed that since the start of the run, and has no turn for the epochs that are over.
        """
        if self.stepped is None or not self.state or "frozen" not in self.state:
            return
        frozen = set(self.state["frozen"])
        changed = [
            parameter
            for name, parameter in pl_module.named_parameters()
            if parameter.requires_grad == (name in frozen) and name not in self.scheduled
        ]
        for parameter in changed:
            parameter.requires_grad_(not parameter.requires_grad)
        if changed and rank() == 0:
            print(
                f"note: a callback had frozen or thawed {len(changed)} parameters, and they are so again; what else "
                "the callback remembers is restored only if its state_dict holds it"
            )

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.interrupts.listen()

    def on_test_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Raise Interrupted after a signal."""
        self._leave(trainer, self._agreed(trainer)[0])

    def _epoch_over(self, trainer: pl.Trainer) -> None:
        """Save the run after an epoch, and raise Interrupted after a signal."""
        if trainer.global_step > self.saved_step:
            self._save(trainer, 0)
        self._leave(trainer, self._agreed(trainer)[0])

    def _agreed(self, trainer: pl.Trainer, due: bool = False) -> tuple[int, bool]:
        """Return the signal and whether to save, combined over all ranks so that all of them do the same."""
        if trainer.world_size == 1:
            return self.interrupts.received, due
        local = torch.tensor([self.interrupts.received, int(due)], device=trainer.strategy.root_device)
        signal, due = trainer.strategy.reduce(local, reduce_op="max").tolist()
        return signal, bool(due)

    def _leave(self, trainer: pl.Trainer, signal: int) -> None:
        if signal:
            raise Interrupted(signal, trainer.global_step)

    def _save(self, trainer: pl.Trainer, batches: int) -> None:
        """Save the run as `last.ckpt`, and after one of the best epochs so far also as `best.ckpt` or by its number.

        batches: how many batches of the unfinished epoch are trained, 0 between epochs.
        """
        for logger in trainer.loggers:
            logger.save()
        self.state = {
            "best_epoch": self.best_epoch,
            "metrics": self.metrics,
            "epochs": trainer.current_epoch,
            "batches": batches,
            "stopped": trainer.max_epochs if trainer.should_stop else None,
            "patience": _patience(trainer),
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
            "callback_metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
            "files": sync_growing_files(self.run) if trainer.is_global_zero else {},
            "run": self.identity,
            "frozen": [name for name, one in trainer.lightning_module.named_parameters() if not one.requires_grad],
            "top": self.top,
        }
        trainer.save_checkpoint(self.new)
        if trainer.is_global_zero:
            # best.ckpt is written first, because the state in last.ckpt refers to it.
            if self.better:
                replace_link(self.new, self.best)
            if trainer.current_epoch in self.top and not batches:
                replace_link(self.new, self.best.with_name(epoch_checkpoint(trainer.current_epoch)))
            if self.last.exists():
                replace_link(self.last, self.previous)
            self.new.replace(self.last)
            sync(self.last.parent)
            self._remove_epochs()
        self.better = False
        self.saved_step, self.saved_time = trainer.global_step, time.monotonic()

    def _remove_epochs(self) -> None:
        """Delete the checkpoints of epochs that are not among the best ones, as the last checkpoint knows them."""
        names = list(map(epoch_checkpoint, self.top))
        for file in self.last.parent.glob(EPOCHS) if self.keep_top else ():
            if file.name not in names:
                file.unlink()

    def state_dict(self) -> StateDict:
        """Return the state at the last checkpoint, which Lightning saves."""
        return {**self.state} if self.state else {}

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: StateDict) -> None:
        """Continue from a checkpoint: restore the state of this callback and the position of Lightning's loops."""
        if not trainer.training:  # the test loads the best checkpoint
            return
        state: SavedState = checkpoint["callbacks"][self.state_key]
        self.state, self.best_epoch, self.metrics = state, state["best_epoch"], state["metrics"]
        self.top, patience = state.get("top", {}), _patience(trainer)
        if trainer.is_global_zero:
            self._remove_epochs()
        # With another max_epochs or another patience, a run that was stopped early trains on.
        trainer.should_stop = state["stopped"] is not None and (
            state["stopped"] == trainer.max_epochs and state.get("patience", patience) == patience
        )
        self.stepped = resume_from(trainer, checkpoint, state["epochs"], state["batches"])


def _patience(trainer: pl.Trainer) -> list[int]:
    return [callback.patience for callback in trainer.early_stopping_callbacks]
