"""An optimizer's parameters as one."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class FlatParameter:
    """Until `part`, an optimizer has one parameter, `whole` (P,), in which all of its own lie: a step is one call.

    Raises RuntimeError where it has others than `values` (P,) holds.
    """

    def __init__(self, optimizer: Optimizer, values: Tensor) -> None:
        self.optimizer, self.whole = optimizer, nn.Parameter(values)
        self.parameters = [one for group in optimizer.param_groups for one in group["params"]]
        self.sizes = [one.numel() for one in self.parameters]
        states = [optimizer.state[one] for one in self.parameters if one in optimizer.state]
        if (
            len(optimizer.param_groups) != 1
            or sum(self.sizes) != len(values)
            or len(states) not in (0, len(self.sizes))
        ):
            raise RuntimeError("an optimizer has other parameters by now")
        # What has a number for each of a parameter's: of one that is a number itself, a step's count is none.
        first = next((place for place, size in enumerate(self.sizes) if size > 1), 0)
        shape = self.parameters[first].shape
        split = {key for key, value in (states[first] if states else {}).items() if _numbers(key, value, shape)}
        joined = {
            key: torch.cat([state[key].flatten() for state in states]) if key in split else copy.deepcopy(value)
            for key, value in (states[0] if states else {}).items()
        }
        gradients = [one.grad.flatten() for one in self.parameters if one.grad is not None]
        if len(gradients) == len(self.sizes):  # which the next batches may add to
            self.whole.grad = torch.cat(gradients)
        optimizer.param_groups[0]["params"] = [self.whole]
        if states:
            optimizer.state[self.whole] = joined

    def part(self) -> None:
        """Give the optimizer its parameters back, with what it keeps for each and the gradients."""
        state = self.optimizer.state.get(self.whole, {})
        split = {key for key, value in state.items() if _numbers(key, value, self.whole.shape)}
        parts = {key: torch.split(state[key], self.sizes) for key in split}
        states = [
            {
                key: parts[key][place].reshape(one.shape).clone() if key in parts else copy.deepcopy(value)
                for key, value in state.items()
            }
            for place, one in enumerate(self.parameters)
        ]
        if self.whole.grad is not None:
            for one, gradient in zip(self.parameters, torch.split(self.whole.grad, self.sizes), strict=True):
                one.grad = gradient.view(one.shape).clone()
        self.optimizer.param_groups[0]["params"] = [*self.parameters]  # another list, of other states
        self.optimizer.state.pop(self.whole, None)
        if state:
            self.optimizer.state.update(zip(self.parameters, states, strict=True))


def _numbers(key: str, value: Any, shape: torch.Size) -> bool:
    """Whether what an optimizer keeps for a parameter has a number for each of its own."""
    return key != "step" and isinstance(value, Tensor) and value.shape == shape
