"""The metric that is counted beside the loss, and the sums of one pass over the data."""

import time
from typing import Any

import torch
from torch import Tensor, nn

from lamella.training.losses import LABELS


def metric_for(loss: nn.Module, targets: Tensor) -> str:
    """What is counted beside the loss: accuracy, or for targets that are numbers the mean absolute error."""
    return "accuracy" if targets.dtype == torch.int64 or isinstance(loss, LABELS) else "mae"


def is_classifier(metric: str) -> bool:
    """Return True where a network with this metric predicts classes or labels, and not numbers."""
    return metric == "accuracy"


def confusion_counts(output: Tensor, targets: Tensor) -> Tensor:
    """Return how often each class was predicted for each true class, int64 (K, K): rows are true, columns predicted.

    output: logits (B, K). targets: class indices (B,).
    """
    classes = output.shape[1]
    pairs = torch.bincount(targets * classes + output.argmax(1), minlength=classes * classes)
    return pairs.view(classes, classes)


def metric_sum(metric: str, output: Tensor, targets: Tensor, compared: Tensor) -> Tensor:
    """The sum of what `metric` judges in a batch: right answers, or absolute errors. compared: as of `targets_for`."""
    if metric == "mae":
        return (output - compared).abs().sum()
    if targets.dtype == torch.int64:
        return (output.argmax(1) == targets).sum()
    return ((output > 0) == (targets > 0.5)).sum()


class Counters:
    """One pass over the data: tensors stay on the device and are read once, at its end."""

    def __init__(self, first_step: int = 0) -> None:
        self.first_step = first_step
        self.started = time.perf_counter()
        self.paused = 0.0  # seconds that validation took in between
        self.losses: list[Tensor] = []
        self.scores: list[Tensor] = []
        self.samples: list[int] = []
        self.weights: list[Tensor] = []  # the denominators of the losses, where they are not `samples`
        self.rates: list[float] = []
        self.judged = 0

    def state(self) -> dict[str, Any]:
        """Tensors, numbers and lists of them; `load` makes the same counters of it."""
        return {
            "first_step": self.first_step,
            "seconds": time.perf_counter() - self.started,
            "paused": self.paused,
            "losses": torch.stack(self.losses),
            "scores": torch.stack(self.scores),
            "samples": torch.tensor(self.samples),
            "weights": torch.stack(self.weights) if self.weights else torch.empty(0),
            "rates": self.rates,
            "judged": torch.tensor(self.judged),
        }

    @classmethod
    def load(cls, state: dict[str, Any], device: torch.device) -> "Counters":
        counters = cls(state["first_step"])
        counters.started -= state["seconds"]
        counters.paused = state["paused"]
        counters.losses, counters.scores, counters.weights = (
            list(state[name].to(device).unbind()) for name in ("losses", "scores", "weights")
        )
        counters.samples, counters.judged = state["samples"].tolist(), int(state["judged"])
        counters.rates = list(state["rates"])
        return counters

    def totals(self) -> Tensor:
        """Sums of weighted loss, weight, score and answers judged, float64 (4,): they can be added over ranks."""
        weights = torch.stack(self.weights) if self.weights else torch.tensor(self.samples)
        losses, weights, scores = (
            kept.double().cpu() for kept in (torch.stack(self.losses), weights, torch.stack(self.scores))
        )
        return torch.tensor([(losses * weights).sum(), weights.sum(), scores.sum(), self.judged], dtype=torch.float64)
