"""Layers that are computed for a stack of networks at once, and give each network bits that no other network changes.

Their inputs and outputs (N, B, …) have the networks in the first dimension. Each of them reduces rows of numbers that
lie next to each other, because torch then adds up each row in the same order, however many rows there are.
"""

from collections.abc import Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

FEATURE_DROPOUTS = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# The layers that compute each number of their output from one number of their input.
ELEMENTWISE_LAYERS = (
    *(nn.CELU, nn.ELU, nn.GELU, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.Identity, nn.LeakyReLU, nn.LogSigmoid),
    *(nn.Mish, nn.ReLU, nn.ReLU6, nn.SELU, nn.Sigmoid, nn.SiLU, nn.Softplus, nn.Softsign, nn.Tanh, nn.Tanhshrink),
)


class StackedLinear(nn.Module):
    """Linear layers. weight (N, O, I), bias (N, O) or None.

    gradients: the tensors into which the backward pass writes the gradients of weight and bias, None for those that are
    not trained. So no gradient has to be copied to its place.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, gradients: Sequence[Tensor | None]) -> None:
        super().__init__()
        self.tensors, self.gradients = (weight, bias), gradients

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs (N, B, …, O) for the inputs (N, B, …, I)."""
        outputs: Tensor = _Linear.apply(inputs.flatten(1, -2), *self.tensors, self.gradients)
        return outputs.transpose(1, 2).view(*inputs.shape[:-1], -1)


class _Linear(torch.autograd.Function):
    """Computes `StackedLinear`; the outputs (N, O, B) are transposed, as BatchNorm takes them."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, gradients: Any) -> Tensor:
        """Return the outputs (N, O, B) for the inputs (N, B, I)."""
        ctx.save_for_backward(inputs, weight)
        ctx.gradients = gradients
        if bias is None:
            return torch.bmm(weight, inputs.transpose(1, 2))
        return torch.baddbmm(bias.unsqueeze(2), weight, inputs.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient (N, B, I) of the inputs, and write those of weight and bias."""
        (inputs, weight), (of_weight, of_bias), gradient = ctx.saved_tensors, ctx.gradients, gradient.contiguous()
        if of_weight is not None:
            torch.bmm(gradient, inputs, out=of_weight)
        if of_bias is not None:
            torch.sum(gradient, 2, out=of_bias)
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        return torch.bmm(weight.transpose(1, 2), gradient).transpose(1, 2), None, None, None


class StackedDropout(nn.Module):
    """Dropout with the rate and the generator of each network; on the CPU it draws what torch's own dropout draws.

    features: drop whole channels of a sample.
    """

    def __init__(self, rates: Sequence[float], generators: Sequence[torch.Generator], features: bool) -> None:
        super().__init__()
        self.rates, self.generators, self.features = rates, generators, features

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs (N, B, …) of all networks for their inputs."""
        if not self.training or not any(self.rates):
            return inputs
        shape = inputs.shape[1:3] + (1,) * (inputs.dim() - 3) if self.features else inputs.shape[1:]
        factors = inputs.new_ones(len(self.rates), *shape)
        for factor, rate, generator in zip(factors, self.rates, self.generators, strict=True):
            if rate == 1:
                factor.zero_()
            elif rate > 0:
                factor.bernoulli_(1 - rate, generator=generator).div_(1 - rate)
        return inputs * factors


class StackedBatchNorm(nn.Module):
    """BatchNorm in training: GroupNorm with each channel of each network as a group of one sample.

    norm: the layer that is replaced. tensors: its parameters and buffers by name, of all networks (N, …).
    """

    def __init__(self, norm: BatchNorm, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.tensors, self.momentum, self.eps = tensors, norm.momentum or 0.0, norm.eps

    @staticmethod
    def replaces(norm: nn.Module) -> TypeGuard[BatchNorm]:
        """Return True if a layer is one that this class can replace."""
        if not isinstance(norm, BATCH_NORMS) or type(norm) not in BATCH_NORMS:
            return False
        return norm.training and norm.track_running_stats and norm.momentum is not None

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs (N, B, C, …) for the inputs, and update the running statistics (N, C)."""
        channels = inputs.transpose(1, 2)
        (networks, groups), count = channels.shape[:2], channels[0, 0].numel()
        if count == 1:
            raise ValueError(f"BatchNorm takes more than one value per channel, not {tuple(inputs.shape[1:])}")
        groups *= networks
        rows = channels.reshape(1, groups, count)
        weight, bias = (self.tensors[name].flatten() if name in self.tensors else None for name in ("weight", "bias"))
        outputs, mean, inverse = torch.native_group_norm(rows, weight, bias, 1, groups, count, groups, self.eps)
        with torch.no_grad():
            variance = (inverse.pow(-2) - self.eps).clamp_(min=0) * (count / (count - 1))
            self.tensors["running_mean"].lerp_(mean.view(networks, -1), self.momentum)
            self.tensors["running_var"].lerp_(variance.view(networks, -1), self.momentum)
            self.tensors["num_batches_tracked"].add_(1)
        return outputs.view(channels.shape).transpose(1, 2)


class ForAll(nn.Module):
    """A layer as vmap sees it: for one network. It computes the layers of all networks at once."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the output (B, …) for the input of one network."""
        outputs: Tensor = _ForAll.apply(self.layer, inputs)
        return outputs


class _ForAll(torch.autograd.Function):
    """Tells vmap to call a layer once, with the inputs of all networks."""

    @staticmethod
    def forward(layer: nn.Module, inputs: Tensor) -> Tensor:
        raise RuntimeError("a layer of a stack is called for all its networks at once")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep nothing, because the gradient is that of the layer's own operations."""

    @staticmethod
    def vmap(info: Any, in_dims: Sequence[int | None], layer: Any, inputs: Tensor) -> tuple[Tensor, int]:
        """Return the outputs (N, …) of all networks. in_dims: the dimension of the networks in each argument."""
        if (dimension := in_dims[1]) is None:
            return layer(inputs.expand(info.batch_size, *inputs.shape)), 0
        return layer(inputs.movedim(dimension, 0)), 0
