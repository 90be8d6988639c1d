"""Join all parameters of an optimizer into one, so that a step is one call of a kernel."""

import copy

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class FlatParameter:
    """Replaces the parameters of an optimizer by one flat parameter, `whole` (P,), that shares their memory.

    `part()` puts the originals back. Gradients and the optimizer's state are joined and split with the parameters.

    values: the memory (P,) of all parameters. Raises RuntimeError if the optimizer has other parameters than `values`,
    or several parameter groups.
    """

    def __init__(self, optimizer: Optimizer, values: Tensor) -> None:
        self.optimizer, self.whole = optimizer, nn.Parameter(values)
        self.parameters: list[Tensor] = [value for group in optimizer.param_groups for value in group["params"]]
        self.sizes = [parameter.numel() for parameter in self.parameters]
        states = [optimizer.state[parameter] for parameter in self.parameters if parameter in optimizer.state]
        if (
            len(optimizer.param_groups) != 1
            or sum(self.sizes) != len(values)
            or len(states) not in (0, len(self.sizes))
        ):
            raise RuntimeError("an optimizer has other parameters by now")
        joined = self._joined_state(states)
        gradients = [parameter.grad.flatten() for parameter in self.parameters if parameter.grad is not None]
        if len(gradients) == len(self.sizes):  # in the middle of a gradient accumulation
            self.whole.grad = torch.cat(gradients)
        optimizer.param_groups[0]["params"] = [self.whole]
        if states:
            optimizer.state[self.whole] = joined

    def part(self) -> None:
        """Give the optimizer its own parameters back, each with its part of the state and of the gradient."""
        state = self.optimizer.state.get(self.whole, {})
        keys = {key for key, value in state.items() if _is_elementwise(key, value, self.whole.shape)}
        parts = {key: torch.split(state[key], self.sizes) for key in keys}
        states = [
            {
                key: parts[key][place].reshape(parameter.shape).clone() if key in parts else copy.deepcopy(value)
                for key, value in state.items()
            }
            for place, parameter in enumerate(self.parameters)
        ]
        if self.whole.grad is not None:
            for parameter, gradient in zip(self.parameters, torch.split(self.whole.grad, self.sizes), strict=True):
                parameter.grad = gradient.view(parameter.shape).clone()
        # A new list: DirectOptimizer goes by the identity of the list to notice that the states are others.
        self.optimizer.param_groups[0]["params"] = [*self.parameters]
        self.optimizer.state.pop(self.whole, None)
        if state:
            self.optimizer.state.update(zip(self.parameters, states, strict=True))

    def _joined_state(self, states: list[dict[str, object]]) -> dict[str, object]:
        """Return the state of the flat parameter, in the order of the keys of the parameters' states."""
        if not states:
            return {}
        # A parameter of one number has no shape to tell its values from others, so a larger one decides.
        first = next((place for place, size in enumerate(self.sizes) if size > 1), 0)
        shape = self.parameters[first].shape
        keys = {key for key, value in states[first].items() if _is_elementwise(key, value, shape)}
        return {
            key: torch.cat([_tensor(state[key]).flatten() for state in states]) if key in keys else copy.deepcopy(value)
            for key, value in states[0].items()
        }


def _is_elementwise(key: str, value: object, shape: torch.Size) -> bool:
    """Return True if a value of an optimizer's state has a number for each number of a parameter of this shape."""
    return key != "step" and isinstance(value, Tensor) and value.shape == shape


def _tensor(value: object) -> Tensor:
    assert isinstance(value, Tensor)
    return value
