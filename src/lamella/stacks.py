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
    """Networks whose parameters and buffers become rows of tensors that they share: what changes one changes the other.

    base: a network as they are, without weights, which becomes the stack's. Dropout draws for all of them at once.
    Raises RuntimeError in what follows where a layer cannot be computed so.
    """

    def __init__(self, networks: Sequence[nn.Module], base: nn.Module) -> None:
        self.base = base
        for own, one in zip(base.modules(), networks[0].modules(), strict=True):
            own.training = one.training
        self.state = {
            name: _share([dict(_tensors(network))[name] for network in networks]) for name, _ in _tensors(networks[0])
        }
        self.trained = [one for one in self.state.values() if one.requires_grad]
        for name, one in list(networks[0].named_modules()):
            rates = [vars(network.get_submodule(name))["p"] for network in networks] if type(one) is nn.Dropout else []
            if len(set(rates)) > 1:
                device = next(iter(self.state.values())).device
                own = _Dropout()
                own.training = one.training
                base.set_submodule(name, own)
                self.state[f"{name}.rate"] = torch.tensor(rates, device=device)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Each network's inputs (N, B, …) in, their outputs (N, B, …) out."""
        outputs: Tensor = vmap(self._one, randomness="different")(self.state, inputs)
        return outputs

    def _one(self, state: dict[str, Tensor], inputs: Tensor) -> Any:
        return functional_call(self.base, state, (inputs,))

    def gradients(self, values: Tensor) -> list[tuple[Tensor | None, ...]]:
        """For the losses (N,) of the outputs: each network's gradients, in the order of its trained parameters."""
        found = torch.autograd.grad(values.sum(), self.trained, allow_unused=True)
        rows = [
            [None] * len(values) if one is None else _laid_out(one, own).unbind()
            for one, own in zip(found, self.trained, strict=True)
        ]
        return list(zip(*rows, strict=True))


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


def _laid_out(gradient: Tensor, parameter: Tensor) -> Tensor:
    """As the parameter lies in memory, which torch's fused optimizers take for granted."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter, requires_grad=False).copy_(gradient)


def _tensors(network: nn.Module) -> list[tuple[str, Tensor]]:
    return [*network.named_parameters(), *network.named_buffers()]


def _share(rows: Sequence[Tensor]) -> Tensor:
    """A tensor whose rows the given ones become."""
    first = rows[0]
    whole = first.detach().new_empty_strided((len(rows), *first.shape), (first.numel(), *first.stride()))
    for one, row in zip(rows, whole, strict=True):
        one.data = row.copy_(one.detach())
    return whole.requires_grad_(first.requires_grad)
