"""Sum losses and metrics over a pass through the data."""

import time
from collections.abc import Callable
from typing import TypedDict

import torch
from torch import Tensor


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
        self.answers: int | Tensor = 0  # the number of answers that the scores are about

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
            "judged": gather(torch.as_tensor(self.answers)),
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
        counters.samples, counters.answers = state["samples"][rank].tolist(), int(state["judged"][rank])
        counters.rates = list(state["rates"])
        return counters

    def totals(self) -> Tensor:
        """Return the sums of weighted losses, weights, scores and answers, float64 (4,) on the CPU.

        The sums of several ranks can be added.
        """
        weights = torch.stack(self.weights) if self.weights else torch.tensor(self.samples)
        losses, weights, scores = (
            values.double().cpu() for values in (torch.stack(self.losses), weights, torch.stack(self.scores))
        )
        return torch.tensor([(losses * weights).sum(), weights.sum(), scores.sum(), self.answers], dtype=torch.float64)
