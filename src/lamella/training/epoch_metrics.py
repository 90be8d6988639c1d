"""Count metrics of torchmetrics over a pass through the data."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassStatScores
from torchmetrics.text import Perplexity

from lamella.distributed import of_all_ranks
from lamella.errors import RequestError, first_line, own_frames
from lamella.training.objective import Objective

HELD = 2**20  # how many numbers of outputs are kept before the metrics are updated with them
# The classes of torchmetrics 1.9 of which less is better, though their `higher_is_better` does not say so.
LOWER = ("BinaryEER", "MulticlassEER", "MultilabelEER", "TweedieDevianceScore")

RankState = dict[str, Any]  # what one rank has counted: `held`, and for each metric the tensors of its state


class EpochMetrics:
    """Counts metrics during one pass over the data, in tensors on the device of the outputs.

    metrics: by name, which are copied. An update takes as long as a step of a small network and may wait for the
    device, so the outputs of batches are kept, and the metrics are updated with HELD numbers at once. When that happens
    depends on the batches of the epoch alone, and what is kept belongs to the state, so that a resumed run has the same
    bits. At the end of the pass, torchmetrics reduces the states of all ranks.
    """

    def __init__(self, objective: Objective, metrics: Mapping[str, Metric]) -> None:
        self.objective = objective
        self.metrics = {name: copy.deepcopy(metric) for name, metric in metrics.items()}
        self.held: list[tuple[Tensor, Tensor]] = []
        self.numbers = 0  # of the outputs that are kept

    def add(self, output: Tensor, targets: Tensor) -> None:
        """Count a batch. output: of the network (B, …). targets: as the data gives them."""
        if self.metrics:
            self.held.append((output.detach().clone(), targets))  # a CUDA graph overwrites its output
            self.numbers += output.numel()
            if self.numbers >= HELD:
                self._update()

    def values(self) -> dict[str, float]:
        """Return the metrics of a finished pass over the data on all ranks."""
        self._update()
        found = {}
        for name, metric in self.metrics.items():
            try:
                value = metric.compute()
                found[name] = float(value if value.numel() == 1 else value.mean())  # the mean over `num_outputs`
            except Exception as error:
                raise _failure(name, metric, error) from error
        return found

    def states(self) -> list[RankState]:
        """Return what each rank has counted in an unfinished pass, on the CPU."""
        state: RankState = {
            "held": [(output.cpu(), targets.cpu()) for output, targets in self.held],
            **{name: _on_cpu(metric.state_dict()) for name, metric in self.metrics.items()},
        }
        return of_all_ranks(state)

    def load(self, state: RankState, device: torch.device) -> None:
        """Take up what this rank had counted. Raises RequestError if that was for other metrics."""
        if {*state} - {"held"} != {*self.metrics}:
            raise RequestError(
                f"metrics: the run is in the middle of an epoch with {sorted({*state} - {'held'})}, and cannot go on "
                f"with {sorted(self.metrics)}",
                "metrics",
            )
        self.held = [(output.to(device), targets.to(device)) for output, targets in state.get("held", [])]
        self.numbers = sum(output.numel() for output, _ in self.held)
        for name, metric in self.metrics.items():
            metric.load_state_dict(state[name])
            metric.to(device)

    def _update(self) -> None:
        """Update all metrics with the batches that are kept."""
        if not self.held:
            return
        output, targets = (torch.cat(parts) for parts in zip(*self.held, strict=True))
        self.held, self.numbers = [], 0
        answers = Answers(self.objective, output, targets)
        for name, metric in self.metrics.items():
            try:
                metric.to(output.device).update(*answers.inputs(metric))
            except Exception as error:
                raise _failure(name, metric, error) from error


@dataclass(frozen=True)
class Answers:
    """What a network has answered, in the forms that metrics take; each form is computed once for all metrics.

    output: of the network (B, …). targets: as the data gives them.
    """

    objective: Objective
    output: Tensor
    targets: Tensor

    @cached_property
    def numbers(self) -> Tensor:
        """Return the output, in float32 where it is of half precision."""
        half = self.output.dtype in (torch.float16, torch.bfloat16)
        return self.output.float() if half else self.output

    @cached_property
    def probabilities(self) -> Tensor:
        """Return the probabilities (B, K, …) of classes or labels."""
        return self.objective.probabilities(self.numbers)

    @cached_property
    def predicted(self) -> Tensor:
        """Return the indices (B, …) of the most probable classes."""
        return self.objective.predicted(self.output)

    def inputs(self, metric: Metric) -> tuple[Tensor, Tensor]:
        """Return what a metric's `update` takes.

        For classes that is probabilities (B, K, …) and indices (B, …), or, for a metric that looks at the most probable
        class alone, predicted and true indices; for labels, probabilities and 0 or 1, both (B, K, …); for numbers,
        outputs and targets, without a last dimension of 1. Metrics for one class take the probability of the second of
        two classes (B, …). Perplexity takes the output as it is, with the classes last.
        """
        kind, output, targets = self.objective.kind, self.numbers, self.targets
        if isinstance(metric, Perplexity):
            return self.objective.by_class(output).movedim(1, -1), targets
        if kind == "numbers":
            single = output.dim() > 1 and output.shape[-1] == 1
            return (output.squeeze(-1), targets.squeeze(-1)) if single else (output, targets)
        if kind == "labels":
            return self.probabilities, (targets > 0.5).long()
        if isinstance(metric, MulticlassConfusionMatrix | MulticlassStatScores) and getattr(metric, "top_k", 1) == 1:
            return self.predicted, targets
        if is_binary(metric) and self.probabilities.shape[1] == 2:
            return self.probabilities[:, 1], targets
        return self.probabilities, targets


def is_binary(metric: Metric) -> bool:
    """Return whether a metric, or the class that it is made from, is one of torchmetrics for one class."""
    return any(
        base.__module__.startswith("torchmetrics.classification.") and base.__name__.startswith("Binary")
        for base in type(metric).__mro__
    )


def is_lower_better(metric: Metric) -> bool:
    """Return True for a metric of which less is better."""
    return metric.higher_is_better is False or type(metric).__name__ in LOWER


def _on_cpu(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state of tensors and lists of tensors on the CPU."""
    return {
        name: [one.cpu() for one in value] if isinstance(value, list) else value.cpu() for name, value in state.items()
    }


def _failure(name: str, metric: Metric, error: Exception) -> RequestError:
    """Return the error for a metric that cannot be counted."""
    return RequestError(
        f"metrics.{name}: {type(metric).__name__} fails: {first_line(error)}{own_frames(error)}", f"metrics.{name}"
    )
