"""Layers of a stack of networks that give each network the bits that it has whatever the other networks are."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEATURE_DROPOUTS = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class StackedDropout(nn.Module):
    """Dropout with the rate and the generator of each network; on the CPU it draws what torch's own dropout draws.

    features: drop whole channels of a sample.
    """

    def __init__(self, rates: Sequence[float], generators: Sequence[torch.Generator], features: bool) -> None:
        super().__init__()
        self.rates, self.generators, self.features = rates, generators, features

    def forward(self, inputs: Tensor) -> Tensor:
        return _ForAll.of(self, inputs) if self.training else inputs

    def of_all(self, inputs: Tensor) -> Tensor:
        """Return the outputs of all networks for their inputs (N, B, …)."""
        shape = inputs.shape[1:3] + (1,) * (inputs.dim() - 3) if self.features else inputs.shape[1:]
        factors = inputs.new_ones(len(self.rates), *shape)
        for factor, rate, generator in zip(factors, self.rates, self.generators, strict=True):
            if rate == 1:
                factor.zero_()
            elif rate > 0:
                factor.bernoulli_(1 - rate, generator=generator).div_(1 - rate)
        return inputs * factors


class StackedBatchNorm(nn.Module):
    """BatchNorm in training, computed for one network after another.

    vmap would compute it for the channels of all networks together, and the order in which torch adds up a channel
    depends on the place of the channel among the others. norm: the layer that is replaced, whose tensors are used.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) -> None:
        super().__init__()
        for name, parameter in norm.named_parameters():
            self.register_parameter(name, parameter)
        for name, buffer in norm.named_buffers():
            self.register_buffer(name, buffer)
        self.affine, self.momentum, self.eps = norm.affine, norm.momentum or 0.0, norm.eps

    @staticmethod
    def replaces(norm: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) -> bool:
        """Return True if a layer is one that this class can replace."""
        return type(norm) in BATCH_NORMS and norm.training and norm.track_running_stats and norm.momentum is not None

    def forward(self, inputs: Tensor) -> Tensor:
        self.num_batches_tracked.add_(1)
        weights = (self.weight, self.bias) if self.affine else ()
        return _ForAll.of(self, inputs, self.running_mean, self.running_var, *weights)

    def of_all(self, *tensors: Tensor) -> Tensor:
        """Return the outputs of all networks for their inputs (N, B, …), and update the running statistics (N, C)."""
        outputs = []
        for inputs, mean, variance, *weights in zip(*tensors, strict=True):
            weight, bias = weights or (None, None)
            outputs.append(
                F.batch_norm(inputs.contiguous(), mean, variance, weight, bias, True, self.momentum, self.eps)
            )
        return torch.stack(outputs)


class _ForAll(torch.autograd.Function):
    """Tells vmap to call the method `of_all` of a layer once, with the tensors of all networks."""

    @classmethod
    def of(cls, layer: nn.Module, *tensors: Tensor) -> Tensor:
        """Return the output of a layer for one network, as vmap sees it."""
        output: Tensor = cls.apply(layer, *tensors)
        return output

    @staticmethod
    def forward(layer: nn.Module, *tensors: Tensor) -> Tensor:
        raise RuntimeError("a layer of a stack is called for all its networks at once")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep nothing, because the gradient is that of the operations in `of_all`."""

    @staticmethod
    def vmap(info: Any, in_dims: Sequence[int | None], layer: Any, *tensors: Tensor) -> tuple[Tensor, int]:
        """Return the outputs (N, …) of all networks. in_dims: the dimension of the networks in each argument."""
        batched = [
            tensor.expand(info.batch_size, *tensor.shape) if dimension is None else tensor.movedim(dimension, 0)
            for tensor, dimension in zip(tensors, in_dims[1:], strict=True)
        ]
        return layer.of_all(*batched), 0
