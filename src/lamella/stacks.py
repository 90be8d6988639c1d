"""Networks of one structure computed as one, the losses of their outputs, and an optimizer's parameters as one."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.optim import Optimizer

from lamella import losses

INTERNAL = set(vars(nn.Module()))  # what torch keeps in each module
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def signature(module: nn.Module) -> dict[str, str]:
    """A text for each module in it, alike where they compute the same from parameters, buffers and Dropout's rates."""
    found = {}
    for name, part in module.named_modules(remove_duplicate=False):
        free = INTERNAL | {"p"} if type(part) is nn.Dropout else INTERNAL
        own = sorted(
            (key, value if _plain(value) else id(value)) for key, value in vars(part).items() if key not in free
        )
        tensors = [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]
        shapes = [(key, one.shape, one.dtype, one.requires_grad) for key, one in tensors]
        hooks = [len(getattr(part, key)) for key in HOOKS]
        found[name] = str((type(part), own, shapes, hooks, part.training))
    return found


def _plain(value: Any) -> bool:
    """Whether equal values mean the same in two modules."""
    if isinstance(value, tuple | list):
        return all(map(_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


class Stack:
    """Networks whose tensors are, until `release`, views of some that they share: what changes one changes the other.

    base: a network as they are, without weights, which becomes the stack's. functions: their losses. rows (N, P): the
    parameters that are trained, those of a network one after another. Dropout draws for all of them at once. Raises
    RuntimeError where the networks are not alike, and in what follows where a layer cannot be computed so.
    """

    def __init__(self, networks: Sequence[nn.Module], base: nn.Module, functions: Sequence[nn.Module] = ()) -> None:
        self.base, self.count, self.functions = base, len(networks), functions
        plain = all(type(one).__module__.startswith("torch.nn.") and not one._buffers for one in functions)
        self.alike = plain and all(signature(one) == signature(functions[0]) for one in functions)
        for own, first in zip(base.parameters(), networks[0].parameters(), strict=True):
            own.requires_grad_(first.requires_grad)
        base.train(networks[0].training)
        # Some may have been changed since they were built, by a callback say.
        known = signature(base)
        for network in networks:
            if other := [name for name, text in signature(network).items() if text != known.get(name)]:
                raise RuntimeError(f"not all are alike in {other[0] or type(network).__name__}")
        named = [[*network.named_parameters(), *network.named_buffers()] for network in networks]
        self.tensors = [(name, [tensors[place][1] for tensors in named]) for place, (name, _) in enumerate(named[0])]
        self._share()
        self._drop(networks)

    def _share(self) -> None:
        trained = [tensors for _, tensors in self.tensors if tensors[0].requires_grad]
        self.rows = torch.cat([torch.stack([one.detach().flatten() for one in tensors]) for tensors in trained], 1)
        parts = iter(torch.split(self.rows, [tensors[0].numel() for tensors in trained], 1))
        self.state, self.trained = dict[str, Tensor](), list[Tensor]()
        for name, tensors in self.tensors:
            if tensors[0].requires_grad:
                whole = next(parts).view(self.count, *tensors[0].shape).requires_grad_()
                self.trained.append(whole)
            else:
                whole = torch.stack([one.detach() for one in tensors])
            for one, row in zip(tensors, whole.detach(), strict=True):
                one.data = row
            self.state[name] = whole

    def _drop(self, networks: Sequence[nn.Module]) -> None:
        """Let Dropout go by the rate of each network."""
        for name, module in list(self.base.named_modules(remove_duplicate=False)):
            if type(module) is nn.Dropout:
                rates = [vars(network.get_submodule(name))["p"] for network in networks]
                self.base.set_submodule(name, _Dropout().train(module.training))
                self.state[f"{name}.rate"] = torch.tensor(rates, dtype=torch.float32, device=self.rows.device)

    def release(self) -> None:
        """Give each network tensors of its own again."""
        for _, tensors in self.tensors:
            for one in tensors:
                one.data = one.data.clone()

    def __call__(self, inputs: Tensor) -> Tensor:
        """Each network's inputs (N, B, …) in, their outputs (N, B, …) out."""
        outputs: Tensor = vmap(self._one, randomness="different")(self.state, inputs)
        return outputs

    def _one(self, state: dict[str, Tensor], inputs: Tensor) -> Any:
        return functional_call(self.base, state, (inputs,))

    def losses(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The losses (N,) of the outputs (N, B, …), and what each function compares its own with."""
        each = zip(self.functions, outputs, targets, strict=True)
        compared = [losses.targets_for(function, output, own) for function, output, own in each]
        if self.alike:
            return vmap(self.functions[0])(outputs, torch.stack(compared)), compared
        each = zip(self.functions, outputs, compared, strict=True)
        return torch.stack([function(output, own) for function, output, own in each]), compared

    def gradients(self, values: Tensor) -> Tensor:
        """For the losses (N,) of the outputs: each network's gradients (N, P)."""
        found = torch.autograd.grad(values.sum(), self.trained)
        return torch.cat([one.reshape(self.count, -1) for one in found], 1)


class Row:
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


class _Dropout(nn.Module):
    """Dropout whose rate is a number of the stack's."""

    rate: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rate", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.training:
            return inputs
        kept = torch.rand_like(inputs) >= self.rate
        return inputs * kept / (1 - self.rate).clamp(min=1e-6)  # of a rate of 1, nothing is kept
