"""Networks of one structure computed as one, with the losses of their outputs."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from lamella import losses

INTERNAL = set(vars(nn.Module()))  # what torch keeps in each module


def signature(module: nn.Module) -> tuple[Any, ...]:
    """Equal for modules that compute the same from their parameters and buffers, but for the rates of their Dropout."""
    found: list[Any] = []
    for name, part in module.named_modules():
        free = INTERNAL | {"p"} if type(part) is nn.Dropout else INTERNAL
        # What is no number, text or the like is never alike: its repr tells where it lies.
        own = sorted((key, repr(value)) for key, value in vars(part).items() if key not in free)
        tensors = [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]
        found.append((name, type(part), str(own), [(key, one.shape, one.requires_grad) for key, one in tensors]))
    return tuple(map(str, found))


class Stack:
    """Networks whose tensors are, until `release`, views of some that they share: what changes one changes the other.

    base: a network as they are, without weights, which becomes the stack's. rows (N, P): the parameters that are
    trained, those of a network one after another. Dropout draws for all of them at once. Raises RuntimeError in what
    follows where a layer cannot be computed so.
    """

    def __init__(self, networks: Sequence[nn.Module], base: nn.Module) -> None:
        self.base, self.count = base, len(networks)
        for part, module in zip(base.modules(), networks[0].modules(), strict=True):
            part.training = module.training
        named = [[*network.named_parameters(), *network.named_buffers()] for network in networks]
        self.tensors = [(name, [tensors[place][1] for tensors in named]) for place, (name, _) in enumerate(named[0])]
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
        for name, module in list(networks[0].named_modules()):
            rates = [vars(own.get_submodule(name))["p"] for own in networks] if type(module) is nn.Dropout else []
            if len(set(rates)) > 1:
                dropout = _Dropout()
                dropout.training = module.training
                base.set_submodule(name, dropout)
                self.state[f"{name}.rate"] = torch.tensor(rates, device=self.rows.device)

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
        return torch.where(kept, inputs / (1 - self.rate), 0.0)
