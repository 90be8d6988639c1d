"""A denoising diffusion model (Ho, Jain and Abbeel 2020, arXiv:2006.11239): algorithms 1 and 2."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

import lamella


def signal(steps: int) -> Tensor:
    """Return how much of the image's variance is left after each step (steps,), for betas that rise in a line."""
    return (1 - torch.linspace(0.1 / steps, 20 / steps, steps).clamp(max=0.999)).cumprod(0)


def denoise(network: nn.Module, noisy: Tensor, step: Tensor, steps: int) -> Tensor:
    """Return the noise that the network sees in images (B, 1, H, W). step: of each image (B,)."""
    level = (step / steps).view(-1, 1, 1, 1).expand_as(noisy)  # the network reads the step from a second channel
    return network["denoiser"](torch.cat([noisy, level], 1))


class DDPM(lamella.Task):
    """Learns to see the noise in an image. steps: from an image to noise alone."""

    def __init__(self, steps: int = 200) -> None:
        super().__init__()
        self.steps = steps

    def step(self, batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
        images = batch[0]
        step = torch.randint(self.steps, (len(images),), device=images.device)
        left = signal(self.steps).to(images.device)[step].view(-1, 1, 1, 1)
        noise = torch.randn_like(images)
        noisy = left.sqrt() * images + (1 - left).sqrt() * noise
        return {"loss": mse_loss(denoise(self.network, noisy, step, self.steps), noise)}
