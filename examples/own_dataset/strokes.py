"""Handwritten digits as sequences: the places of the dark pixels, whose number varies from digit to digit."""

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset


class Strokes(Dataset[dict[str, Any]]):
    """Gives the places (T,), from 1 to 64, of the pixels darker than `threshold`; `dropped` of them are left out."""

    def __init__(self, threshold: int = 8, dropped: float = 0.1) -> None:
        digits = load_digits()
        self.pixels, self.digits = torch.tensor(digits.data) > threshold, digits.target
        self.dropped = dropped

    def __len__(self) -> int:
        return len(self.digits)

    def __getitem__(self, index: int) -> dict[str, Any]:
        kept = self.pixels[index] & (torch.rand(64) >= self.dropped)
        return {"places": kept.nonzero().flatten() + 1, "digit": int(self.digits[index])}


def pad(items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Return a batch (B, T), in which 0 is padding."""
    places = pad_sequence([item["places"] for item in items], batch_first=True)
    return {"places": places, "digit": torch.tensor([item["digit"] for item in items])}
