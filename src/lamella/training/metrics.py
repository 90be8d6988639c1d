"""Sum losses and metrics over a pass through the data."""

from collections.abc import Callable, Mapping
from typing import NotRequired, TypedDict

import torch
from torch import Tensor

from lamella.errors import RequestError
from lamella.training.epoch_metrics import EpochMetrics, RankState


class CountersState(TypedDict):
    """The state of the Counters of an unfinished epoch. The tensors hold the values of all ranks: (ranks, …)."""

    first_step: int
    losses: Tensor
    scores: Tensor
    samples: Tensor
    weights: Tensor
    rates: list[float]
    judged: Tensor
    metrics: NotRequired[list[RankState]]  # of each rank; not there without metrics of the config
    further: NotRequired[dict[str, Tensor]]  # not there without further results


class Counters:
    """Collects the losses of an optimizer and metrics during one pass over the data.

    They are tensors on the device that are read at the end. metrics: those of the config. prefix: of the names of what
    the step returns. The attribute `first_step` is the number of steps that the optimizer took before the pass.
    """

    def __init__(self, metrics: EpochMetrics, prefix: str = "") -> None:
        self.metrics, self.objective, self.prefix, self.first_step = metrics, metrics.objective, prefix, 0
        self.losses: list[Tensor] = []
        self.scores: list[Tensor] = []
        self.samples: list[int] = []
        # The weight of each batch's loss in the mean. If the list is empty, the numbers of samples are the weights.
        self.weights: list[Tensor] = []
        self.rates: list[float] = []
        self.answers: int | Tensor = 0  # the number of answers that the scores are about
        self.further: dict[str, list[Tensor]] = {}  # the further results of the steps, by name

    def count(self, results: Mapping[str, Tensor], targets: Tensor, score: Tensor | None = None) -> None:
        """Count a batch. results: as `Task.step` returns them. targets: as the data gives them. score: the sum of the
        objective's metric over the batch, None to compute it.

        Raises RequestError if the results have other names than those of the batches before.
        """
        further = {name: value for name, value in results.items() if name not in ("loss", "output")}
        if self.losses and further.keys() != self.further.keys():
            raise RequestError(
                f"task: the step returns {sorted(further)} beside the loss for this batch, and {sorted(self.further)} "
                "for those before it; every batch of a pass takes the same names",
                "task",
            )
        self.losses.append(results["loss"].detach())
        self.samples.append(len(targets))
        for name, value in further.items():
            self.further.setdefault(name, []).append(value.detach())
        output = results.get("output")
        if output is None or self.objective.kind == "other":
            return
        targets = self.objective.indices(targets)
        with torch.no_grad():
            self.scores.append(self.objective.metric_sum(output, targets) if score is None else score)
            if self.objective.weighted:
                self.weights.append(self.objective.weight(targets))
        self.answers += self.objective.answers(targets)
        self.metrics.add(output, targets)

    def state(self, gather: Callable[[Tensor], Tensor]) -> CountersState:
        """Return everything that all ranks have counted. gather: stacks the values of all ranks (ranks, …)."""
        state: CountersState = {
            "first_step": self.first_step,
            "losses": gather(torch.stack(self.losses)),
            "scores": gather(torch.stack(self.scores) if self.scores else torch.empty(0)),
            "samples": gather(torch.tensor(self.samples)),
            "weights": gather(torch.stack(self.weights) if self.weights else torch.empty(0)),
            "rates": self.rates,
            "judged": gather(torch.as_tensor(self.answers)),
        }
        if self.metrics.metrics:
            state["metrics"] = self.metrics.states()
        if self.further:
            state["further"] = {name: gather(torch.stack(values)) for name, values in self.further.items()}
        return state

    def load(self, state: CountersState, rank: int, world: int, device: torch.device) -> None:
        """Take up, on `device`, what the process of `rank` had counted. world: the number of processes.

        Raises RequestError if the epoch was begun with another number of processes, or with other metrics.
        """
        if (saved_world := len(state["losses"])) != world:
            raise RequestError(
                f"trainer.devices: the run is in the middle of an epoch on {saved_world} processes, "
                f"and cannot go on with {world}",
                "trainer.devices",
            )
        self.first_step = state["first_step"]
        self.losses, self.scores, self.weights = (
            list(values[rank].to(device).unbind()) for values in (state["losses"], state["scores"], state["weights"])
        )
        self.samples, self.answers = state["samples"][rank].tolist(), int(state["judged"][rank])
        self.rates = list(state["rates"])
        self.metrics.load(state["metrics"][rank] if "metrics" in state else {}, device)
        further = state.get("further", {})
        self.further = {name: list(values[rank].to(device).unbind()) for name, values in further.items()}

    def totals(self) -> Tensor:
        """Return sums of which `means` makes means, float64 on the CPU. The sums of several ranks can be added."""
        samples = torch.tensor(self.samples, dtype=torch.float64)
        weights = _double(self.weights) if self.weights else samples
        further = [(_double(values) * samples).sum() for values in self.further.values()]
        sums = [(_double(self.losses) * weights).sum(), weights.sum(), _double(self.scores).sum(), self.answers]
        return torch.tensor([*sums, samples.sum(), *further], dtype=torch.float64)

    def means(self, totals: Tensor) -> dict[str, float]:
        """Return the mean loss, the metric of the objective, and the means of the further results.

        totals: the sums of all ranks.
        """
        loss, weight, score, answers, samples, *further = totals.tolist()
        means = {f"{self.prefix}loss": loss / weight}
        if answers:
            means[self.objective.metric] = score / answers
        return means | {
            f"{self.prefix}{name}": value / samples for name, value in zip(self.further, further, strict=True)
        }


def _double(values: list[Tensor]) -> Tensor:
    """Return scalars as one tensor, float64 (N,) on the CPU."""
    return torch.stack(values).double().cpu() if values else torch.zeros(0, dtype=torch.float64)
