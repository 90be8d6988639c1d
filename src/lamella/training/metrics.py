"""Choose the metric that is counted beside the loss, and sum losses and metrics over a pass through the data."""

import time
from collections.abc import Callable
from typing import TypedDict

import torch
from torch import Tensor, nn

from lamella.training.losses import LABELS


def metric_for(loss: nn.Module, targets: Tensor) -> str:
    """Return the metric that is counted beside the loss: "accuracy", or "mae" for targets that are numbers."""
    return "accuracy" if targets.dtype == torch.int64 or isinstance(loss, LABELS) else "mae"


def is_classifier(metric: str) -> bool:
    """Return True if a network with this metric predicts classes or labels, False if it predicts numbers."""
    return metric == "accuracy"


def confusion_counts(output: Tensor, targets: Tensor) -> Tensor:
    """Return how often each class was predicted for each true class, int64 (K, K): rows are true, columns predicted.

    output: logits (B, K, …). targets: class indices (B, …).
    """
    classes = output.shape[1]
    pairs = torch.bincount((targets * classes + output.argmax(1)).flatten(), minlength=classes * classes)
    return pairs.view(classes, classes)


def metric_sum(metric: str, output: Tensor, targets: Tensor, compared: Tensor) -> Tensor:
    """Return the sum of a metric over a batch, a scalar: the number of right answers, or the sum of absolute errors.

    compared: the targets as returned by `loss_targets`.
    """
    if metric == "mae":
        return (output - compared).abs().sum()
    if targets.dtype == torch.int64:
        return (output.argmax(1) == targets).sum()
    return ((output > 0) == (targets > 0.5)).sum()


class CountersState(TypedDict):
    """The state of the Counters of an unfinished epoch. The tensors hold the values of all ranks: (ranks, …)."""

    first_step: int
    seconds: float
    paused: float
    losses: Tensor
    scores: Tensor
    samples: Tensor
    weights: Tensor
    rates: list[float]
    judged: Tensor


class SavedCounters(CountersState):
    """The state of the Counters in a checkpoint. val: the metrics of the last validation."""

    val: dict[str, float]


class Counters:
    """Collects losses and metrics during one pass over the data, in tensors on the device that are read at the end.

    first_step: the number of optimizer steps before the pass.
    """

    def __init__(self, first_step: int = 0) -> None:
        self.first_step = first_step
        self.started = time.perf_counter()
        self.paused = 0.0  # seconds that validations during the pass took
        self.losses: list[Tensor] = []
        self.scores: list[Tensor] = []
        self.samples: list[int] = []
        # The weight of each batch's loss in the mean. If the list is empty, the numbers of samples are the weights.
        self.weights: list[Tensor] = []
        self.rates: list[float] = []
        self.judged = 0  # the number of answers that the scores are about

    def state(self, gather: Callable[[Tensor], Tensor]) -> CountersState:
        """Return everything that all ranks have counted. gather: stacks the values of all ranks (ranks, …)."""
        return {
            "first_step": self.first_step,
            "seconds": time.perf_counter() - self.started,
            "paused": self.paused,
            "losses": gather(torch.stack(self.losses)),
            "scores": gather(torch.stack(self.scores)),
            "samples": gather(torch.tensor(self.samples)),
            "weights": gather(torch.stack(self.weights) if self.weights else torch.empty(0)),
            "rates": self.rates,
            "judged": gather(torch.tensor(self.judged)),
        }

    @classmethod
    def load(cls, state: CountersState, rank: int, device: torch.device) -> "Counters":
        """Return counters on `device` with what the process of `rank` had counted."""
        counters = cls(state["first_step"])
        counters.started -= state["seconds"]
        counters.paused = state["paused"]
        counters.losses, counters.scores, counters.weights = (
            list(values[rank].to(device).unbind()) for values in (state["losses"], state["scores"], state["weights"])
        )
        counters.samples, counters.judged = state["samples"][rank].tolist(), int(state["judged"][rank])
        counters.rates = list(state["rates"])
        return counters

    def totals(self) -> Tensor:
        """Return the sums of weighted losses, weights, scores and judged answers, float64 (4,) on the CPU.

        The sums of several ranks can be added.
        """
        weights = torch.stack(self.weights) if self.weights else torch.tensor(self.samples)
        losses, weights, scores = (
            values.double().cpu() for values in (torch.stack(self.losses), weights, torch.stack(self.scores))
        )
        return torch.tensor([(losses * weights).sum(), weights.sum(), scores.sum(), self.judged], dtype=torch.float64)
