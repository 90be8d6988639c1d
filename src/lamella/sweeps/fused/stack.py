"""Compute several networks of one structure as one network."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from lamella.network.structure import network_signature
from lamella.sweeps.fused.layers import BATCH_NORMS, FEATURE_DROPOUTS, StackedBatchNorm, StackedDropout
from lamella.torch_internals import has_registered_buffers, replace_data
from lamella.training.objective import Objective


class NetworkStack:
    """N networks whose parameters and buffers are, until `release()`, rows of stacked tensors.

    One vmap call computes all of them; what changes the stacked tensors changes the networks.

    networks: of equal structure. base: a network of the same structure on the meta device, which the stack changes.
    objectives: of each network. rows (N, P): the parameters that are trained, those of a network one after
    another. Dropout draws for each network from the network's own seed, so that the others make no difference to it.
    Raises RuntimeError if the networks are not alike, and so do the calls if a layer cannot be computed with vmap, for
    example because the layer draws random numbers in another way.
    """

    def __init__(self, networks: Sequence[nn.Module], base: nn.Module, objectives: Sequence[Objective] = ()) -> None:
        self.base, self.count, self.objectives = base, len(networks), objectives
        self.losses_are_alike = _are_alike([objective.loss for objective in objectives])
        for parameter, first in zip(base.parameters(), networks[0].parameters(), strict=True):
            parameter.requires_grad_(first.requires_grad)
        for module, like in zip(base.modules(), networks[0].modules(), strict=True):
            module.training = like.training  # frozen normalisation layers are in evaluation mode
        # The networks were built alike, but for example a callback may have changed one of them.
        signature = network_signature(base)
        for network in networks:
            if names := [name for name, text in network_signature(network).items() if text != signature.get(name)]:
                raise RuntimeError(f"not all are alike in {names[0] or type(network).__name__}")
        named = [[*network.named_parameters(), *network.named_buffers()] for network in networks]
        # For each parameter and buffer its name, and the tensors of the networks.
        self.tensors = [(name, [tensors[place][1] for tensors in named]) for place, (name, _) in enumerate(named[0])]
        self._stack_tensors()
        self._replace_layers(networks)

    def release(self) -> None:
        """Give each network tensors of its own again, with the present values."""
        for _, tensors in self.tensors:
            for tensor in tensors:
                replace_data(tensor, tensor.detach().clone())

    def __call__(self, inputs: Tensor, seeds: Sequence[int] = ()) -> Tensor:
        """Return the outputs (N, B, …) of the networks for their inputs (N, B, …).

        seeds: for each network the seed of its dropout.
        """
        for generator, seed in zip(self.generators, seeds, strict=False):
            generator.manual_seed(seed)
        outputs: Tensor = vmap(self._call_one)(self.state, inputs)
        return outputs

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the losses (N,) of the outputs (N, B, …) for targets (N, B, …)."""
        triples = list(zip(self.objectives, outputs, targets, strict=True))
        if not self.losses_are_alike:
            return torch.stack([objective(output, target) for objective, output, target in triples])
        first = self.objectives[0]
        read = torch.stack([objective.read_targets(output, target) for objective, output, target in triples])
        losses: Tensor = vmap(first.loss)(vmap(first.read_output)(outputs), read)
        return losses

    def gradients(self, losses: Tensor) -> Tensor:
        """Return the gradients (N, P) of the losses (N,), a row for each network."""
        gradients = torch.autograd.grad(losses.sum(), self.trained)
        return torch.cat([gradient.reshape(self.count, -1) for gradient in gradients], 1)

    def _stack_tensors(self) -> None:
        """Copy the tensors of all networks into stacked ones, and make the networks' tensors views of these."""
        trained = [tensors for _, tensors in self.tensors if tensors[0].requires_grad]
        self.rows = torch.cat(
            [torch.stack([tensor.detach().flatten() for tensor in tensors]) for tensors in trained], 1
        )
        parts = iter(torch.split(self.rows, [tensors[0].numel() for tensors in trained], 1))
        self.state, self.trained = dict[str, Tensor](), list[Tensor]()
        for name, tensors in self.tensors:
            if tensors[0].requires_grad:
                stacked = next(parts).view(self.count, *tensors[0].shape).requires_grad_()
                self.trained.append(stacked)
            else:
                stacked = torch.stack([tensor.detach() for tensor in tensors])
            for tensor, row in zip(tensors, stacked.detach(), strict=True):
                replace_data(tensor, row)
            self.state[name] = stacked

    def _replace_layers(self, networks: Sequence[nn.Module]) -> None:
        """Replace the layers of the base whose results would depend on how many networks there are."""
        self.generators: list[torch.Generator] = []
        for name, module in list(self.base.named_modules(remove_duplicate=False)):
            if type(module) in (nn.Dropout, *FEATURE_DROPOUTS):
                if not self.generators:
                    device = "cpu" if self.rows.is_meta else self.rows.device
                    self.generators = [torch.Generator(device) for _ in networks]
                rates = [float(vars(network.get_submodule(name))["p"]) for network in networks]
                dropout = StackedDropout(rates, self.generators, type(module) in FEATURE_DROPOUTS)
                self.base.set_submodule(name, dropout.train(module.training))
            elif isinstance(module, BATCH_NORMS) and StackedBatchNorm.replaces(module):
                self.base.set_submodule(name, StackedBatchNorm(module))

    def _call_one(self, state: dict[str, Tensor], inputs: Tensor) -> Tensor:
        """Return the output (B, …) of one network. vmap calls this function once for all of them."""
        output: Tensor = functional_call(self.base, state, (inputs,))
        return output


def _are_alike(functions: Sequence[nn.Module]) -> bool:
    """Return True if the losses are classes of torch without buffers, and equal, so that vmap can compute them."""
    return all(
        type(function).__module__.startswith("torch.nn.")
        and not has_registered_buffers(function)
        and network_signature(function) == network_signature(functions[0])
        for function in functions
    )
