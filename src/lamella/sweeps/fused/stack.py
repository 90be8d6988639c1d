"""Compute several networks of one structure as one network."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from lamella.network.layers import Network, Residual, Sequential
from lamella.network.structure import network_signature
from lamella.sweeps.fused.layers import (
    ELEMENTWISE_LAYERS,
    FEATURE_DROPOUTS,
    ForAll,
    StackedBatchNorm,
    StackedDropout,
    StackedLinear,
)
from lamella.torch_internals import replace_data
from lamella.training.objective import Objective

CONTAINERS = (nn.Sequential, Sequential, Network, Residual)  # they only hand on what their layers give


class NetworkStack:
    """N networks whose parameters and buffers are, until `release()`, rows of stacked tensors.

    What changes the stacked tensors changes the networks. If all layers are such that one call computes them for all
    networks, the stack consists of these layers. Otherwise one vmap call computes all networks, which takes longer.

    networks: of equal structure. base: a network of the same structure on the meta device, which the stack changes.
    objectives: of each network. rows (N, P): the parameters that are trained, those of a network one after
    another. Dropout draws for each network from the network's own seed, so that the others make no difference to it.
    Raises RuntimeError if the networks are not alike, and so do the calls if a layer cannot be computed with vmap, for
    example because the layer draws random numbers in another way.
    """

    def __init__(self, networks: Sequence[nn.Module], base: nn.Module, objectives: Sequence[Objective] = ()) -> None:
        self.base, self.count, self.objectives = base, len(networks), objectives
        self.of_samples = _of_samples(objectives)
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
        outputs: Tensor = self.base(inputs) if self.is_direct else vmap(self._call_one)(self.others, inputs)
        return outputs

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the losses (N,) of the outputs (N, B, …) for targets (N, B, …)."""
        if self.of_samples is None:
            triples = zip(self.objectives, outputs, targets, strict=True)
            return torch.stack([objective(output, target) for objective, output, target in triples])
        return self.of_samples(outputs.flatten(0, 1), targets.flatten(0, 1)).view(self.count, -1).mean(1)

    def scores(self, outputs: Tensor, targets: Tensor) -> Sequence[Tensor | None]:
        """Return for each network the sum of the metric of its objective, None where each has to compute its own."""
        if self.of_samples is None:
            return [None] * self.count
        outputs, targets = outputs.detach().flatten(0, 1), self.of_samples.indices(targets.flatten(0, 1))
        return self.of_samples.scores(outputs, targets).view(self.count, -1).sum(1).unbind()

    def gradients(self, losses: Tensor) -> Tensor:
        """Return the gradients (N, P) of the losses (N,), a row for each network, which the next call overwrites."""
        torch.autograd.backward(losses.sum())
        for name, gradient in self.gradient_parts.items():
            if (found := self.state[name].grad) is not None:
                gradient.copy_(found)
                self.state[name].grad = None
            elif not self.is_direct:  # where the layers of the stack have written it
                raise RuntimeError(f"the loss does not depend on {name}")
        return self.gradient_rows

    def _stack_tensors(self) -> None:
        """Copy the tensors of all networks into stacked ones, and make the networks' tensors views of these."""
        trained = {name: tensors for name, tensors in self.tensors if tensors[0].requires_grad}
        self.rows = torch.cat(
            [torch.stack([tensor.detach().flatten() for tensor in tensors]) for tensors in trained.values()], 1
        )
        self.gradient_rows = torch.empty_like(self.rows)
        values, self.gradient_parts = (
            {
                name: part.view(self.count, *tensors[0].shape)
                for (name, tensors), part in zip(
                    trained.items(), torch.split(rows, [part[0].numel() for part in trained.values()], 1), strict=True
                )
            }
            for rows in (self.rows, self.gradient_rows)
        )
        self.state = dict[str, Tensor]()
        for name, tensors in self.tensors:
            if name in trained:
                stacked = values[name].requires_grad_()
            else:
                stacked = torch.stack([tensor.detach() for tensor in tensors])
            for tensor, row in zip(tensors, stacked.detach(), strict=True):
                replace_data(tensor, row)
            self.state[name] = stacked

    def _replace_layers(self, networks: Sequence[nn.Module]) -> None:
        """Replace layers of the base by those of all networks; under vmap, only dropout and BatchNorm."""
        device = "cpu" if self.rows.is_meta else self.rows.device
        self.generators: list[torch.Generator] = []
        modules = dict(self.base.named_modules(remove_duplicate=False))
        if any(type(module) in (nn.Dropout, *FEATURE_DROPOUTS) for module in modules.values()):
            self.generators = [torch.Generator(device) for _ in networks]
        replacements = {name: self._replacement(name, module, networks) for name, module in modules.items()}
        unshared = len(modules) == len(set(modules.values())) and len(dict(self.base.named_parameters())) == len(
            dict(self.base.named_parameters(remove_duplicate=False))
        )
        self.is_direct = (
            unshared
            and type(self.base) in CONTAINERS
            and all(type(module) in CONTAINERS or replacements[name] for name, module in modules.items())
        )
        replaced = set[str]()
        for name, layer in replacements.items():
            if layer and self.is_direct:
                self.base.set_submodule(name, layer)
            elif isinstance(layer, StackedDropout | StackedBatchNorm):
                self.base.set_submodule(name, ForAll(layer))
                replaced.add(name)
        self.others = {name: value for name, value in self.state.items() if name.rpartition(".")[0] not in replaced}

    def _replacement(self, name: str, module: nn.Module, networks: Sequence[nn.Module]) -> nn.Module | None:
        """Return the layer that computes a layer of the base for all networks at once, None if there is none."""
        if type(module) in ELEMENTWISE_LAYERS:
            return module
        if type(module) is nn.Flatten and module.start_dim == 1 and module.end_dim == -1:
            return nn.Flatten(2)
        if type(module) in (nn.Dropout, *FEATURE_DROPOUTS):
            rates = [float(vars(network.get_submodule(name))["p"]) for network in networks]
            dropout = StackedDropout(rates, self.generators, type(module) in FEATURE_DROPOUTS)
            return dropout.train(module.training)
        keys = [key for key, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))]
        tensors = {key: self.state[f"{name}.{key}"] for key in keys if f"{name}.{key}" in self.state}
        if StackedBatchNorm.replaces(module):
            return StackedBatchNorm(module, tensors)
        if type(module) is nn.Linear and len(tensors) == len(keys):
            gradients = [self.gradient_parts.get(f"{name}.{key}") for key in ("weight", "bias")]
            return StackedLinear(tensors["weight"], tensors.get("bias"), gradients)
        return None

    def _call_one(self, state: dict[str, Tensor], inputs: Tensor) -> Tensor:
        """Return the output (B, …) of one network. vmap calls this function once for all of them."""
        output: Tensor = functional_call(self.base, state, (inputs,))
        return output


def _of_samples(objectives: Sequence[Objective]) -> Objective | None:
    """Return an objective whose loss gives one value for each sample, whose mean is the loss of a network.

    Returns None if the objectives differ, or if their losses are no such means.
    """
    kinds = {(str(network_signature(one.loss)), one.kind, one.class_dim) for one in objectives}
    losses = [objective.loss for objective in objectives]
    plain = all(type(loss).__module__.startswith("torch.nn.") and not [*loss.buffers()] for loss in losses)
    if len(kinds) != 1 or not plain or any(objective.weighted for objective in objectives):
        return None
    if getattr(losses[0], "reduction", "") != "mean":
        return None
    loss: Any = copy.copy(losses[0])
    loss.reduction = "none"
    return replace(objectives[0], loss=loss)
