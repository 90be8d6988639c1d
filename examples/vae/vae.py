"""A variational autoencoder (Kingma and Welling 2013, arXiv:1312.6114)."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

import lamella


class VAE(lamella.Task):
    """Codes an image as a normal distribution. beta: the weight of the divergence from the prior; 1 is the paper's."""

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        self.beta = beta

    def step(self, batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
        images = batch[0]
        mean, log_variance = self.network["encoder"](images).chunk(2, 1)
        code = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        logits = self.network["decoder"](code)
        reconstruction = binary_cross_entropy_with_logits(logits, images, reduction="sum") / len(images)
        kl = (mean**2 + log_variance.exp() - 1 - log_variance).sum() / 2 / len(images)
        return {"loss": reconstruction + self.beta * kl, "reconstruction": reconstruction, "kl": kl}
