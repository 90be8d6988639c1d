"""A generative adversarial network (Goodfellow et al. 2014, arXiv:1406.2661)."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import softplus

import lamella


class GAN(lamella.Task):
    """Lets a generator learn to draw images that a discriminator takes for real ones."""

    def step(self, batch: tuple[Tensor, Tensor], optimizer: str) -> Mapping[str, Tensor]:
        images = batch[0]
        generator, discriminator = self.network["generator"], self.network["discriminator"]
        drawn = generator(torch.randn(len(images), generator[0].in_features, device=images.device))
        score = discriminator(drawn)  # the logarithm of the odds that an image is real
        if optimizer == "generator":
            return {"loss": softplus(-score).mean()}
        real = discriminator(images)
        return {"loss": softplus(-real).mean() + softplus(score).mean(), "right": (real > 0).float().mean()}
