"""Find the first number of a training that is not finite: in which batch, in which layer, and from which input."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lamella.training.parameter_groups import rate_of

BEGINS = "the network begins with such a weight"


@dataclass(frozen=True)
class Spread:
    """The finite values of a tensor from `lowest` to `highest`, None where none is, and how many are not finite."""

    lowest: float | None
    highest: float | None
    zeros: int
    nans: int
    infinities: int
    count: int

    @classmethod
    def of(cls, values: Tensor) -> "Spread":
        """Return the spread of the values of a tensor."""
        values = torch.view_as_real(values.detach()) if values.is_complex() else values.detach()
        finite = values[values.isfinite()]
        ends = (float(finite.min()), float(finite.max())) if len(finite) else (None, None)
        zeros, nans, infinities = int((values == 0).sum()), int(values.isnan().sum()), int(values.isinf().sum())
        return cls(ends[0], ends[1], zeros, nans, infinities, values.numel())

    @property
    def largest(self) -> float:
        """Return the largest absolute value, infinity where a value is not finite."""
        if self.nans or self.infinities or self.lowest is None or self.highest is None:
            return torch.inf
        return max(abs(self.lowest), abs(self.highest))


@dataclass(frozen=True)
class Place:
    """What is not finite, and what it was computed from.

    kind: "batch" for the inputs of the network; "input" of a layer, which the layer around it has computed; "output" of
    a layer; "gradient" or "weight" of a parameter, or "buffer". name: of the layer, parameter or buffer in the
    LightningModule. layer: the class of the layer. values: those that are not all finite. given: the input of the
    layer. gradient: that of the parameter. samples: the positions in the batch of samples that are not finite.
    """

    kind: Literal["batch", "input", "output", "gradient", "weight", "buffer"]
    name: str
    layer: str
    values: Spread
    given: Spread | None = None
    gradient: Spread | None = None
    weights: Mapping[str, Spread] | None = None
    samples: tuple[int, ...] = ()


class NonFiniteFound(Exception):
    """Raised when a loss, a gradient or a weight is not finite.

    first: what was the first of its batch, None if it is the loss itself. then: what followed from it. stage: training,
    validation or test. step, epoch, batch: counted from 1. rate: the learning rate, None outside of the training.
    """

    def __init__(
        self, first: Place | None, then: str, stage: str, step: int, epoch: int, batch: int, rate: float | None
    ) -> None:
        super().__init__(then)
        self.first, self.then, self.stage, self.rate = first, then, stage, rate
        self.step, self.epoch, self.batch = step, epoch, batch


class AllFinite(Exception):
    """Raised when the training has passed its last epoch to be watched, and nothing was found."""


class FiniteWatch(pl.Callback):
    """A callback that looks at each layer, gradient and weight, and raises NonFiniteFound.

    A layer may give infinities that do no harm, such as a mask. So what is found first in a batch is reported only once
    the loss, a gradient or a weight is not finite. epochs: the number of epochs after which AllFinite is raised.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs, self.batch = epochs, 0
        self.module: pl.LightningModule | None = None
        self.first: Place | None = None
        self.gradient: Place | None = None
        self.entered = False  # whether a layer has run for the batch
        self.calls: dict[str, Tensor] = {}  # the input of each layer for the batch, by name
        self.hooks: list[RemovableHandle] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.module = pl_module
        for name, layer in pl_module.named_modules():
            if name:
                self.hooks.append(layer.register_forward_pre_hook(partial(self._enter, name)))
                self.hooks.append(layer.register_forward_hook(partial(self._leave, name)))
        for name, parameter in pl_module.named_parameters():
            if parameter.requires_grad:
                hook = partial(self._keep_gradient, name)
                self.hooks.append(parameter.register_post_accumulate_grad_hook(hook))  # type: ignore[no-untyped-call]

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        while self.hooks:
            self.hooks.pop().remove()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._check_weights(BEGINS)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch >= self.epochs:
            raise AllFinite

    def on_train_batch_start(self, trainer: object, pl_module: object, batch: object, batch_idx: int) -> None:
        self._begin(batch_idx)

    def on_validation_batch_start(
        self, trainer: object, pl_module: object, batch: object, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._begin(batch_idx)

    def on_test_batch_start(
        self, trainer: object, pl_module: object, batch: object, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._begin(batch_idx)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        if not loss.isfinite().all():
            raise self._found(f"the loss is {float(loss.detach()):g}")

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Raise NonFiniteFound for a gradient, unless a scaler looks for such gradients and leaves the step out."""
        found, self.gradient = self.gradient, None
        if found and trainer.precision != "16-mixed":
            self.first = self.first or found
            raise self._found(f"the gradient of {found.name} is not finite, and the loss is")

    def on_train_batch_end(self, *_: object) -> None:
        self._check_weights("the step of the optimizer gave such a weight, from finite gradients", taken=1)

    def _begin(self, number: int) -> None:
        self.batch, self.first, self.gradient, self.entered = number, None, None, False
        self.calls.clear()

    def _enter(self, name: str, layer: nn.Module, inputs: Any) -> None:
        tensors = [*_floats(inputs)]
        if self.first is None and (wrong := _first_wrong(tensors)) is not None:
            kind: Literal["batch", "input"] = "input" if self.entered else "batch"
            samples = tuple((~wrong.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()) if wrong.dim() else ()
            self.first = Place(kind, name, type(layer).__name__, Spread.of(wrong), samples=samples)
        self.entered = True
        self.calls |= {name: tensors[0].detach()} if tensors else {}

    def _leave(self, name: str, layer: nn.Module, inputs: object, output: Any) -> None:
        wrong = _first_wrong(_floats(output))
        if wrong is None:
            return
        if self.first is None:
            weights = {key: Spread.of(value) for key, value in layer.named_parameters(recurse=False)}
            self.first = Place("output", name, type(layer).__name__, Spread.of(wrong), self._given(name), None, weights)
        if name == "loss" and not wrong.dim():  # that of a Task
            raise self._found(f"the loss is {float(wrong):g}")

    def _keep_gradient(self, name: str, parameter: Tensor) -> None:
        if self.gradient is None and parameter.grad is not None and not parameter.grad.isfinite().all():
            self.gradient = self._of_tensor("gradient", name, parameter.grad, parameter, None)

    def _check_weights(self, then: str, taken: int = 0) -> None:
        assert self.module
        for name, value in (*self.module.named_parameters(), *self.module.named_buffers()):
            if value.is_floating_point() and not value.isfinite().all():
                kind: Literal["weight", "buffer"] = "weight" if isinstance(value, nn.Parameter) else "buffer"
                self.first = self._of_tensor(kind, name, value, value, value.grad)
                if kind == "buffer" and taken:
                    then = "the forward pass gave such a buffer, from weights that have grown"
                raise self._found(then, taken)

    def _of_tensor(
        self,
        kind: Literal["gradient", "weight", "buffer"],
        name: str,
        values: Tensor,
        weight: Tensor,
        gradient: Tensor | None,
    ) -> Place:
        """Return the place of a parameter or buffer."""
        assert self.module
        owner, _, key = name.rpartition(".")
        spread = None if gradient is None else Spread.of(gradient)
        layer = type(self.module.get_submodule(owner)).__name__
        return Place(kind, name, layer, Spread.of(values), self._given(owner), spread, {key: Spread.of(weight)})

    def _given(self, name: str) -> Spread | None:
        return Spread.of(self.calls[name]) if name in self.calls else None

    def _found(self, then: str, taken: int = 0) -> NonFiniteFound:
        """Return what is raised. taken: 1 if the optimizer has taken the step already, else 0."""
        assert self.module
        trainer = self.module.trainer
        stage = "test" if trainer.testing else "validation" if trainer.validating or not self.module.training else ""
        rate = None if stage else rate_of(trainer.optimizers[0].param_groups)
        step = trainer.global_step + (0 if stage else 1 - taken)
        return NonFiniteFound(
            self.first, then, stage or "training", step, trainer.current_epoch + 1, self.batch + 1, rate
        )


def _floats(value: object) -> Iterator[Tensor]:
    """Yield the tensors of floats in a value that a layer takes or gives."""
    if isinstance(value, Tensor):
        if value.is_floating_point() or value.is_complex():
            yield value
    elif isinstance(value, Mapping):
        yield from _floats([*value.values()])
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _floats(part)


def _first_wrong(tensors: "Iterator[Tensor] | list[Tensor]") -> Tensor | None:
    """Return the first tensor that is not finite, None if all are."""
    return next((one.detach() for one in tensors if not one.isfinite().all()), None)
