"""A generative adversarial network (Goodfellow et al. 2014, arXiv:1406.2661), as an ordinary LightningModule."""

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits


class GAN(pl.LightningModule):
    """Draws images from normal noise. code: the size of the noise. width: of the hidden layers."""

    def __init__(self, code: int = 16, width: int = 128, lr: float = 2e-4) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.generator = nn.Sequential(
            nn.Linear(code, width), nn.ReLU(), nn.Linear(width, 784), nn.Tanh(), nn.Unflatten(1, (1, 28, 28))
        )
        self.discriminator = nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.LeakyReLU(0.2), nn.Linear(width, 1))

    def forward(self, code: Tensor) -> Tensor:
        drawn: Tensor = self.generator(code)
        return drawn

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, _ = batch
        for_generator, for_discriminator = self.optimizers()  # type: ignore[misc,union-attr]
        drawn = self(torch.randn(len(images), self.hparams["code"], device=self.device))

        d_loss = (self.loss(images, real=True) + self.loss(drawn.detach(), real=False)) / 2
        for_discriminator.zero_grad()
        self.manual_backward(d_loss)
        for_discriminator.step()

        g_loss = self.loss(drawn, real=True)
        for_generator.zero_grad()
        self.manual_backward(g_loss)
        for_generator.step()
        self.log_dict({"d_loss": d_loss, "g_loss": g_loss}, on_step=False, on_epoch=True)

    def loss(self, images: Tensor, real: bool) -> Tensor:
        """Return the mean loss of the discriminator if images (B, 1, 28, 28) are real, or are not."""
        logits = self.discriminator(images)
        return binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        networks = (self.generator, self.discriminator)
        return [torch.optim.Adam(network.parameters(), self.hparams["lr"], betas=(0.5, 0.999)) for network in networks]
