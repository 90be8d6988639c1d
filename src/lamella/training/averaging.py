"""Average the weights of a network while it trains, for the keys `trainer.ema` and `trainer.swa`."""

import sys
from functools import partial

import pytorch_lightning as pl
import torch
from torch import Tensor

from lamella.console import print
from lamella.distributed import rank
from lamella.runs.checkpoints import TRAINED, StateDict
from lamella.torch_internals import lerp_each
from lamella.training.task import Task


class Averages(pl.Callback):
    """A callback that averages the weights, and puts the average in their place for each validation.

    decay: of an exponential moving average, which takes a share of 1 - decay of the weights after each optimizer step.
    first_epoch: the first of the epochs, counted from 1, after each of which the weights are averaged equally. One of
    the two is None. The first weights that count are the first average, as in `torch.optim.swa_utils.AveragedModel`.

    Buffers of floats, such as the running statistics of BatchNorm, are averaged likewise. Buffers of integers are
    copied, and so are tensors with infinite values, whose average would be NaN.

    A checkpoint holds the average in `state_dict`, which is what evaluates, and the weights in training in TRAINED,
    from which a resumed run trains on; this is also how Lightning's WeightAveraging saves both. How much the next
    weights count depends on the number of the epoch alone, so that there is no other state.
    """

    def __init__(self, decay: float | None, first_epoch: int | None) -> None:
        self.decay, self.first_epoch = decay, first_epoch
        self.average: dict[str, Tensor] = {}  # by name, empty before the first weights that count
        self.floats: list[str] = []  # the names of the tensors that are averaged and not copied
        self.trained: dict[str, Tensor] = {}  # the weights in training, while the average is in their place
        self.last_epoch = 0  # the last epoch that counts

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Task)
        if self.average:
            self._set({name: value.to(pl_module.device) for name, value in self.average.items()})
        if self.decay is None:
            return
        pl_module.after_step = partial(self._add, pl_module, 1 - self.decay)
        span, steps = 1 / (1 - self.decay), trainer.estimated_stepping_batches
        if steps < span and not self.average and rank() == 0:
            print(
                f"note: trainer.ema is {self.decay}, an average over about {span:,.0f} steps, and the run takes "
                f"{steps:,.0f}, so that the first weights count much; take a smaller decay or more steps",
                file=sys.stderr,
            )

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the average in the place of the weights."""
        if trainer.is_last_batch:
            self._end_epoch(trainer, pl_module)
        if not self.average:
            return
        if trainer.world_size > 1:  # the buffers of the ranks differ, and those of rank 0 are saved
            for name in [name for name, _ in pl_module.named_buffers() if name in self.average]:
                torch.distributed.broadcast(self.average[name], src=0)
        self.trained = {name: value.clone() for name, value in pl_module.state_dict().items()}
        _copy(self.average, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the weights in training back."""
        _copy(self.trained, pl_module)
        self.trained = {}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end_epoch(trainer, pl_module)  # of an epoch without validation

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: StateDict) -> None:
        if self.average:
            checkpoint[TRAINED] = self.trained or checkpoint["state_dict"]
            checkpoint["state_dict"] = self.average

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: StateDict) -> None:
        if trainer.training and TRAINED in checkpoint:
            self.average = checkpoint["state_dict"]
            pl_module.load_state_dict(checkpoint[TRAINED])

    def _end_epoch(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the weights at the end of an epoch count, once for each epoch from the first one that counts."""
        epoch = trainer.current_epoch + 1
        if self.first_epoch is not None and self.first_epoch <= epoch != self.last_epoch:
            self._add(pl_module, 1 / (epoch - self.first_epoch + 1))
            self.last_epoch = epoch

    def _add(self, module: pl.LightningModule, share: float) -> None:
        """Move the average towards the present weights. share: how much these count, from 0 to 1."""
        weights: dict[str, Tensor] = module.state_dict()
        if not self.average:
            self._set({name: value.clone() for name, value in weights.items()})
            return
        lerp_each([self.average[name] for name in self.floats], [weights[name] for name in self.floats], share)
        for name in self.average.keys() - set(self.floats):
            self.average[name].copy_(weights[name])

    def _set(self, average: dict[str, Tensor]) -> None:
        self.average = average
        self.floats = [
            name
            for name, value in average.items()
            if (value.is_floating_point() or value.is_complex()) and bool(value.isfinite().all())
        ]


@torch.no_grad()
def _copy(values: dict[str, Tensor], module: pl.LightningModule) -> None:
    """Copy values into the tensors of a module, which stay where they are, as CUDA graphs need."""
    present = module.state_dict() if values else {}
    for name, value in values.items():
        present[name].copy_(value)
