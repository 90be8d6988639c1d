"""Networks of one structure computed as one, the losses of their outputs, and an optimizer's parameters as one."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from lamella.network.structure import network_signature
from lamella.training.losses import loss_targets


class NetworkStack:
    """Networks whose tensors are, until `release`, views of some that they share: what changes one changes the other.

    base: a network as they are, without weights, which becomes the stack's. functions: their losses. rows (N, P): the
    parameters that are trained, those of a network one after another. Dropout draws for all of them at once. Raises
    RuntimeError where the networks are not alike, and in what follows where a layer cannot be computed so.
    """

    def __init__(self, networks: Sequence[nn.Module], base: nn.Module, functions: Sequence[nn.Module] = ()) -> None:
        self.base, self.count, self.functions = base, len(networks), functions
        plain = all(type(one).__module__.startswith("torch.nn.") and not one._buffers for one in functions)
        self.alike = plain and all(network_signature(one) == network_signature(functions[0]) for one in functions)
        for own, first in zip(base.parameters(), networks[0].parameters(), strict=True):
            own.requires_grad_(first.requires_grad)
        base.train(networks[0].training)
        # Some may have been changed since they were built, by a callback say.
        known = network_signature(base)
        for network in networks:
            if other := [name for name, text in network_signature(network).items() if text != known.get(name)]:
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
        compared = [loss_targets(function, output, own) for function, output, own in each]
        if self.alike:
            return vmap(self.functions[0])(outputs, torch.stack(compared)), compared
        each = zip(self.functions, outputs, compared, strict=True)
        return torch.stack([function(output, own) for function, output, own in each]), compared

    def gradients(self, values: Tensor) -> Tensor:
        """For the losses (N,) of the outputs: each network's gradients (N, P)."""
        found = torch.autograd.grad(values.sum(), self.trained)
        return torch.cat([one.reshape(self.count, -1) for one in found], 1)


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
