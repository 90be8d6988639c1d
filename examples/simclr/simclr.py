"""Contrastive learning without labels, SimCLR (Chen et al. 2020, arXiv:2002.05709)."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, cross_entropy, grid_sample, normalize

import lamella


def view(images: Tensor) -> Tensor:
    """Return images (B, C, H, W), each turned, scaled and moved at random."""
    angle, scale, across, down = (torch.rand(4, len(images), device=images.device) * 2 - 1) * 0.3
    cos, sin = angle.cos() * (1 + scale), angle.sin() * (1 + scale)
    matrix = torch.stack([cos, -sin, across, sin, cos, down], 1).view(-1, 2, 3)
    moved = grid_sample(images, affine_grid(matrix, list(images.shape), False), "bilinear", "border", False)
    return moved + torch.randn_like(moved) * 0.1


class SimCLR(lamella.Task):
    """Brings two views of an image together, and those of other images apart."""

    def __init__(self, temperature: float = 0.5) -> None:
        super().__init__()
        self.temperature = temperature

    def step(self, batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
        views = torch.cat([view(batch[0]), view(batch[0])])
        codes = normalize(self.network["projection"](self.network["encoder"](views)))
        similar = (codes @ codes.T / self.temperature).fill_diagonal_(-torch.inf)
        other = torch.arange(len(views), device=views.device).roll(len(views) // 2)  # the other view of each image
        return {"loss": cross_entropy(similar, other), "found": (similar.argmax(1) == other).float().mean()}
