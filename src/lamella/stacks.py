"""Networks of one structure computed as one, with the losses of their outputs."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

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

    base: a network as they are, without weights, which becomes the stack's. rows (N, P): the parameters that are
    trained, those of a network one after another. Dropout draws for all of them at once. Raises RuntimeError where the
    networks are not alike, and in what follows where a layer cannot be computed so.
    """

    def __init__(self, networks: Sequence[nn.Module], base: nn.Module) -> None:
        self.base, self.count = base, len(networks)
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

    def gradients(self, values: Tensor) -> Tensor:
        """For the losses (N,) of the outputs: each network's gradients (N, P)."""
        found = torch.autograd.grad(values.sum(), self.trained)
        return torch.cat([one.reshape(self.count, -1) for one in found], 1)


def judged(functions: Sequence[nn.Module], outputs: Tensor, targets: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The losses (N,) of the outputs (N, B, …) by each network's own function, and what they compare them with."""
    each = zip(functions, outputs, targets, strict=True)
    compared = [losses.targets_for(function, output, own) for function, output, own in each]
    first, *others = functions
    plain = type(first).__module__.startswith("torch.nn.") and not list(first.buffers())
    if plain and all(signature(one) == signature(first) for one in others):
        return vmap(first)(outputs, torch.stack(compared)), compared
    each = zip(functions, outputs, compared, strict=True)
    return torch.stack([function(output, own) for function, output, own in each]), compared


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
