"""Define the convolution whose filters are computed from the training images and not trained."""

from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn
from torch.nn.functional import unfold

from lamella.network.eval_mode import eval_mode

SAMPLES = 512  # the images from which the filters are computed; each has hundreds of patches


class Whitening2d(nn.Conv2d):
    """A convolution that whitens patches: its outputs are uncorrelated and have a mean square of 1.

    There are two filters for each number in a patch: a principal direction of the patches, divided by their root mean
    square in this direction, and the negative of it (Page 2018, "How to train your ResNet"; Jordan 2024,
    arXiv:2404.00498). The filters are computed by `fit_whitening` when a run begins, and stay as they are. The bias is
    trained.

    kernel_size: the sides of a patch. eps: added to the mean squares, so that directions without variance stay small.
    Shapes: (B, C, H, W) in, (B, 2 C k k, H - k + 1, W - k + 1) out for the kernel size k.
    """

    def __init__(self, in_channels: int, kernel_size: int = 2, eps: float = 5e-4) -> None:
        super().__init__(in_channels, 2 * in_channels * kernel_size**2, kernel_size)
        self.eps = eps
        filters = self.weight.detach()
        del self.weight
        self.register_buffer("weight", filters)  # no parameter, so that nothing trains it

    @torch.no_grad()
    def fit(self, input: Tensor) -> None:
        """Compute the filters from what comes in (B, C, H, W)."""
        size = self.weight[0].numel()
        squares, count = torch.zeros(size, size, dtype=torch.float64), 0
        for images in torch.split(input.cpu().double(), 16):  # the patches of all images would take much memory
            patches = unfold(images, self.kernel_size).transpose(1, 2).reshape(-1, size)
            squares, count = squares + patches.T @ patches, count + len(patches)
        values, directions = torch.linalg.eigh(squares / count)
        filters = directions / (values.clamp(min=0) + self.eps).sqrt()
        self.weight.copy_(torch.cat([filters.T.flip(0), -filters.T.flip(0)]).view_as(self.weight))


class _Reached(Exception):
    """Ends a forward pass at the layer that it was for."""


def whitening_layers(network: nn.Module) -> Sequence[Whitening2d]:
    """Return the layers of a network that `fit_whitening` computes."""
    return [module for module in network.modules() if isinstance(module, Whitening2d)]


def fit_whitening(network: nn.Module, input: Tensor) -> None:
    """Compute the filters of a network's Whitening2d layers, each from what the layers before it make of `input`.

    input: images as the network takes them (B, C, H, W), on its device and of its type.
    """

    def fit(module: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(module, Whitening2d)
        module.fit(inputs[0])
        raise _Reached

    for layer in whitening_layers(network):
        with eval_mode(network), layer.register_forward_pre_hook(fit), suppress(_Reached):
            network(input)
