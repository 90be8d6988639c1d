"""Let several optimizers, each with its own parameters, take their steps as one."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer


class JoinedOptimizer(Optimizer):
    """Takes a step of each of several optimizers in each of its own steps.

    It has the parameter groups of all of them, so that schedulers, checkpoints and Lightning see one optimizer.

    optimizers: with parameters of their own. Their groups and their states become those of the whole.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self.optimizers = list(optimizers)
        super().__init__(
            [group for optimizer in optimizers for group in optimizer.param_groups], optimizers[0].defaults
        )
        for optimizer in optimizers:
            self.state.update(optimizer.state)  # Adagrad, for one, makes its state before the first step
        self._share()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step of each optimizer. closure: computes the gradients and returns the loss."""
        with torch.enable_grad():
            loss = closure() if closure else None
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take up a state that was loaded, which has other groups."""
        super().__setstate__(state)
        self._share()

    def _share(self) -> None:
        """Let each optimizer work with its groups among those of the whole, and with the state of the whole."""
        start = 0
        for optimizer in self.optimizers:
            end = start + len(optimizer.param_groups)
            optimizer.__setstate__({"state": self.state, "param_groups": self.param_groups[start:end]})
            start = end
