"""The fused kernels of torch's optimizers, without what torch looks up again before each call."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks


class DirectOptimizer:
    """Takes the steps of an optimizer, to the bit as it would: at its kernel, where it is torch's own and fused.

    What a step takes beside the kernel is, in a small net, longer than the kernel: a look at each parameter and its
    state, a kernel for each count of steps, and the annotation for a profiler. So these are looked at once, as long
    as a group keeps its list of parameters, and the counts become views of one tensor.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.param_groups = optimizer.param_groups
        self.parameters: list[list[Tensor]] = []  # of each group
        self.known: list[tuple[int, bool]] = []  # what the kernels go by: which lists, and whether there is momentum
        self.kernels: list[Callable[[list[Tensor]], None]] = []

    def zero_grad(self) -> None:
        if type(self.optimizer).zero_grad is not Optimizer.zero_grad:
            self.optimizer.zero_grad()
            return
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def step(self, closure: Callable[[], Any]) -> Any:
        """Call closure, which computes the gradients, and take the step; returns what closure does."""
        known = [(id(group["params"]), bool(group.get("momentum"))) for group in self.param_groups]
        if known != self.known:
            self.known, self.kernels = known, [*self._kernels()]
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

    def _kernels(self) -> Iterator[Callable[[list[Tensor]], None]]:
        """One for each group; none at all where one of them is not to be called so."""
        optimizer, kind = self.optimizer, type(self.optimizer)
        own = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks
        hooked = any((*own, _global_optimizer_pre_hooks, _global_optimizer_post_hooks))
        if kind in (Adam, AdamW, SGD) and not hooked and all(map(self._plain, self.param_groups)):
            for group in self.param_groups:
                states = [optimizer.state.get(parameter, {}) for parameter in group["params"]]
                yield (_sgd if kind is SGD else _adam)(group, states)

    def _plain(self, group: dict[str, Any]) -> bool:
        """Whether a group's step is one call of the kernel, with states that are there already."""
        parameters = group["params"]
        if not group["fused"] or group["differentiable"] or group.get("capturable") or isinstance(group["lr"], Tensor):
            return False
        alike = {(one.dtype, one.device) for one in parameters}
        if len(alike) != 1 or parameters[0].is_complex():
            return False
        kept = "momentum_buffer" if type(self.optimizer) is SGD else "step"
        stateless = kept == "momentum_buffer" and not group["momentum"]
        return stateless or all(self.optimizer.state.get(one, {}).get(kept) is not None for one in parameters)


def _adam(group: dict[str, Any], states: list[dict[str, Tensor]]) -> Callable[[list[Tensor]], None]:
    counts = torch.stack([state["step"] for state in states])
    for state, count in zip(states, counts.unbind(), strict=True):
        state["step"] = count
    call = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
    kept = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "step")
    lists = [[state[name] for state in states if name in state] for name in kept]
    names = ("lr", "weight_decay", "eps", "amsgrad", "maximize")

    def kernel(gradients: list[Tensor]) -> None:
        counts.add_(1)
        beta1, beta2 = group["betas"]
        numbers = {name: group[name] for name in names}
        call(group["params"], gradients, *lists, beta1=beta1, beta2=beta2, **numbers)

    return kernel


def _sgd(group: dict[str, Any], states: list[dict[str, Tensor]]) -> Callable[[list[Tensor]], None]:
    buffers = [state["momentum_buffer"] for state in states] if group["momentum"] else []
    names = ("lr", "weight_decay", "momentum", "dampening", "nesterov", "maximize")

    def kernel(gradients: list[Tensor]) -> None:
        numbers = {name: group[name] for name in names}
        torch._fused_sgd_(group["params"], gradients, buffers, is_first_step=False, **numbers)

    return kernel
