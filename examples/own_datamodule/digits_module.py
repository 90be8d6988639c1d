"""A LightningDataModule as Lightning's documentation has it, which knows nothing of Lamella."""

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset, random_split


class DigitsModule(pl.LightningDataModule):
    """Serves the 8×8 digits of scikit-learn; the training batches have some noise."""

    def __init__(self, batch_size: int = 64, noise: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage: str) -> None:
        digits = load_digits()
        samples = TensorDataset(torch.tensor(digits.images / 16).float()[:, None], torch.tensor(digits.target))
        self.parts = random_split(samples, [0.8, 0.1, 0.1], torch.Generator().manual_seed(0))

    def noisy(self, items: list[tuple[torch.Tensor, torch.Tensor]]) -> list[torch.Tensor]:
        images, labels = torch.utils.data.default_collate(items)
        return [images + self.hparams["noise"] * torch.randn_like(images), labels]

    def train_dataloader(self) -> DataLoader[tuple[torch.Tensor, torch.Tensor]]:
        return DataLoader(self.parts[0], self.hparams["batch_size"], shuffle=True, collate_fn=self.noisy)

    def val_dataloader(self) -> DataLoader[tuple[torch.Tensor, torch.Tensor]]:
        return DataLoader(self.parts[1], 256)

    def test_dataloader(self) -> DataLoader[tuple[torch.Tensor, torch.Tensor]]:
        return DataLoader(self.parts[2], 256)
