"""Take optimizer steps by direct calls of torch's fused kernels, without what torch looks up before each call."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from lamella.console import print
from lamella.errors import first_line
from lamella.torch_internals import Kernel, ParamGroup, adam_kernel, has_step_hooks, sgd_kernel

# The options of a group that decide what its kernel computes, or which arguments the kernel is called with.
FLAGS = ("amsgrad", "decoupled_weight_decay", "maximize", "nesterov", "momentum")
# Whether direct steps were found equal to the optimizer's own, by class, device, dtype and flags.
_TRIED: dict[tuple[object, ...], bool] = {}


class DirectOptimizer:
    """An optimizer whose steps are, where possible, single calls of torch's fused kernel, with exactly equal results.

    In a small network, the other work of `optimizer.step()` takes longer than the kernel: torch looks at each
    parameter and its state, runs a kernel for each step count and annotates the step for a profiler. This class looks
    at parameters and states once, as long as a group keeps its list of parameters, and makes the step counts views of
    one tensor. The optimizer's own step is taken for other optimizers, unfused ones, tensor learning rates and
    optimizers with hooks, and where a trial shows that a direct call computes something else.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.param_groups = optimizer.param_groups
        self.parameters: list[list[Tensor]] = []  # of each group
        self.kernel_inputs: list[tuple[int, bool]] = []  # the groups' lists of parameters, and whether with momentum
        self.kernels: list[Kernel] = []  # one a group, or none at all

    def zero_grad(self) -> None:
        """Set the gradients to None, or do what the optimizer's own `zero_grad` does."""
        if type(self.optimizer).zero_grad is not Optimizer.zero_grad:
            self.optimizer.zero_grad()
            return
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def step(self, closure: Callable[[], Any]) -> Any:
        """Call `closure`, which computes the gradients and returns the loss; take the step and return the loss."""
        inputs = [(id(group["params"]), bool(group.get("momentum"))) for group in self.param_groups]
        if inputs != self.kernel_inputs:
            self.kernel_inputs, self.kernels = inputs, self._kernels()
            self.parameters = [group["params"] for group in self.param_groups]
        if not self.kernels:
            return self.optimizer.step(closure)
        loss = closure()
        gradients = [[one.grad for one in parameters if one.grad is not None] for parameters in self.parameters]
        if list(map(len, gradients)) != list(map(len, self.parameters)):
            self.optimizer.step()
            return loss
        with torch.no_grad():
            for kernel, group in zip(self.kernels, gradients, strict=True):
                kernel(group)
        return loss

    def _kernels(self) -> list[Kernel]:
        """Return the kernel of each group, or an empty list if one of the groups cannot be stepped directly."""
        optimizer = self.optimizer
        if not isinstance(optimizer, Adam | SGD) or type(optimizer) not in (Adam, AdamW, SGD):
            return []  # a subclass may take another step
        try:
            if has_step_hooks(optimizer):
                return []
        except AttributeError as error:
            _print_once(f"without direct optimizer steps: {first_line(error)}")
            return []
        if not all(self._is_direct(group) and _is_exact(type(optimizer), group) for group in self.param_groups):
            return []
        return [_kernel(optimizer, group) for group in self.param_groups]

    def _is_direct(self, group: ParamGroup) -> bool:
        """Return True if the step of a group is one call of the fused kernel, and the states exist already."""
        parameters = group["params"]
        if not group["fused"] or group["differentiable"] or group.get("capturable") or isinstance(group["lr"], Tensor):
            return False
        if len({(one.dtype, one.device) for one in parameters}) != 1 or parameters[0].is_complex():
            return False
        if type(self.optimizer) is SGD:
            key, has_state = "momentum_buffer", bool(group["momentum"])
        else:
            key, has_state = "step", True
        return not has_state or all(self.optimizer.state.get(one, {}).get(key) is not None for one in parameters)


@cache
def _print_once(text: str) -> None:
    print(text)


def _kernel(optimizer: Optimizer, group: ParamGroup) -> Kernel:
    states = [optimizer.state.get(parameter, {}) for parameter in group["params"]]
    return (sgd_kernel if type(optimizer) is SGD else adam_kernel)(group, states)


def _is_exact(kind: type[Adam | SGD], group: ParamGroup) -> bool:
    """Return True if a direct step has the results of the optimizer's own; try it once for each kind of group."""
    first = group["params"][0]
    key = (kind, first.device, first.dtype, *(bool(group.get(flag)) for flag in FLAGS))
    if key not in _TRIED:
        try:
            reason = "" if _steps_are_equal(kind, group) else "its result differs from the optimizer's own step"
        except Exception as error:
            reason = first_line(error)
        if reason:
            _print_once(f"without direct steps of {kind.__name__}: {reason}")
        _TRIED[key] = not reason
    return _TRIED[key]


def _steps_are_equal(kind: type[Adam | SGD], group: ParamGroup) -> bool:
    """Take a direct step and the optimizer's own on a small parameter with the options of a group; compare the bits."""
    first, results = group["params"][0], []
    for direct in (False, True):
        value = torch.linspace(-1, 1, 7, dtype=first.dtype, device=first.device).requires_grad_()
        value.grad = value.detach() ** 2 - 0.3
        optimizer = kind([{**group, "params": [value]}])
        optimizer.step()  # makes the state
        if direct:
            with torch.no_grad():
                _kernel(optimizer, optimizer.param_groups[0])([value.grad])
        else:
            optimizer.step()
        results.append([value, *(part for _, part in sorted(optimizer.state[value].items()) if part is not None)])
    return len(results[0]) == len(results[1]) and all(map(torch.equal, *results))
