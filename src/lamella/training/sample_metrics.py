"""Keep the metrics of each validation and test sample, of which an epoch's metrics are the means."""

import copy
import zlib
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lamella.data.chunk import Batch
from lamella.distributed import of_all_ranks
from lamella.runs.checkpoints import StateDict
from lamella.runs.sample_metrics import TARGETS, Array
from lamella.training.objective import Objective

Part = tuple[Tensor, Tensor | None]  # of each sample a sum over its answers (B,), and their weight, None for the same


@dataclass
class _Judged:
    """The samples of an unfinished pass, batch by batch, on the device."""

    checks: list[Tensor] = field(default_factory=list)  # a number that depends on the target of each sample
    parts: dict[str, list[Part]] = field(default_factory=dict)


class SampleMetrics(pl.Callback):
    """A callback that keeps the metrics of each sample of the last validation, of the best epoch's, and of a test.

    objective: by which the outputs are judged. has_own_step: whether the loss is another one than the objective's, and
    is not kept. Each is a mapping of the names of metrics to values (N,), in the order of the data, on the CPU. The
    values are bool where a sample has a single answer, which is right or wrong; otherwise they are float32, with the
    metric as their mean: where samples have different weights, those are multiplied in. Under TARGETS is a checksum of
    the targets. What is not the mean of a value for each sample is not kept.

    Nothing is read from the device before the end of a pass. The validations belong to the state in a checkpoint.
    """

    def __init__(self, objective: Objective, has_own_step: bool = False) -> None:
        self.objective = objective
        self.loss = None if has_own_step else _unreduced(objective)
        self.last: dict[str, Tensor] = {}
        self.best: dict[str, Tensor] = {}
        self.test: dict[str, Tensor] = {}
        self.weights: dict[str, Tensor | None] = {}  # of the samples in the metrics of the last pass
        self._judged = _Judged()

    def end_epoch(self, is_best: bool) -> None:
        """Keep the validation of an epoch that is over if it is the best one so far."""
        self.best, self.last = self.last if is_best else self.best, {}

    def arrays(self) -> dict[str, dict[str, Array]]:
        """Return the values of the best validation and of the test, where there are any."""
        stages = {"val": self.best, "test": self.test}
        return {
            stage: {name: value.numpy() for name, value in values.items()} for stage, values in stages.items() if values
        }

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._judged = _Judged()

    on_test_start = on_validation_start

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Judge the samples of a batch. outputs: of the network (B, …); others are not judged."""
        if not isinstance(outputs, Tensor) or not isinstance(batch, tuple) or self.objective.kind == "other":
            return
        targets = batch[1]
        checks = _by_sample(targets)
        self._judged.checks.append(checks.float() if checks.device.type == "mps" else checks.double())
        for name, part in self._parts(outputs, targets).items():
            self._judged.parts.setdefault(name, []).append(part)

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.last = self._metrics()

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.test = self._metrics()

    def state_dict(self) -> StateDict:
        """Return the last validation of an unfinished epoch, and that of the best epoch."""
        return {"last": self.last, "best": self.best}

    def load_state_dict(self, state_dict: StateDict) -> None:
        self.last, self.best = state_dict["last"], state_dict["best"]

    def _parts(self, output: Tensor, targets: Tensor) -> dict[str, Part]:
        """Return the metrics of the samples of a batch by name, those that can be told."""
        objective = self.objective
        scores, answers = objective.scores(output, targets), None
        if objective.ignored is not None:
            answers = _by_sample((targets != objective.ignored).float())
        if answers is not None:
            scores = _by_sample(scores.float())
        elif scores.dim() > 1 or scores.is_floating_point():
            scores = scores.float().reshape(len(scores), -1).mean(1)
        parts: dict[str, Part] = {objective.metric: (scores, answers)}
        losses = self._losses(output, targets)
        if losses is not None and losses.dim() and losses.numel() % len(targets) == 0:
            losses = losses.reshape(len(targets), -1)
            weights = _weights(objective, targets)
            parts["loss"] = (losses.mean(1), None) if weights is None else (losses.sum(1), weights)
        return parts

    def _losses(self, output: Tensor, targets: Tensor) -> Tensor | None:
        """Return the losses of a batch before their mean, None where the loss gives none."""
        if self.loss is None:
            return None
        objective = self.objective
        if output.is_floating_point():  # mixed precision computes losses with 32 bits too
            output = output.float()
        try:
            losses: Tensor = self.loss(objective.read_output(output), objective.read_targets(output, targets))
        except Exception:  # a loss of the project's own may not know reduction="none"
            self.loss = None
            return None
        return losses.float()

    def _metrics(self) -> dict[str, Tensor]:
        """Return the values of all samples that all ranks have judged, in the order of the data."""
        judged, self._judged, self.weights = self._judged, _Judged(), {}
        if not judged.checks:
            return {}
        targets = _in_order(judged.checks).double().numpy()
        metrics = {TARGETS: torch.tensor(zlib.crc32(targets.tobytes()))}
        for name, parts in judged.parts.items():
            values, weights = _in_order([sums for sums, _ in parts]), None
            if len(values) != len(targets):  # a loss of another shape in some batches
                continue
            if parts[0][1] is not None:
                weights = _in_order([weight for _, weight in parts if weight is not None])
                values = values / weights.mean()
            metrics[name], self.weights[name] = values, weights
        return metrics


def _unreduced(objective: Objective) -> Any:
    """Return the loss of an objective without its mean over the batch, None where it is no such mean."""
    if getattr(objective.loss, "reduction", None) != "mean":
        return None
    loss: Any = copy.copy(objective.loss)  # shares the class weights, also after they are moved to another device
    loss.reduction = "none"
    return loss


def _weights(objective: Objective, targets: Tensor) -> Tensor | None:
    """Return the weight of each sample in the mean of a weighted loss (B,), None where all are the same."""
    if not objective.weighted:
        return None
    counted = torch.ones_like(targets, dtype=torch.float32)
    if objective.ignored is not None:
        counted = (targets != objective.ignored).float()
    weight: Tensor | None = getattr(objective.loss, "weight", None)
    return _by_sample(counted if weight is None else weight[targets.clamp(0, len(weight) - 1)] * counted)


def _by_sample(values: Tensor) -> Tensor:
    """Return the sum of the values of each sample (B,). values: (B, …)."""
    return values.flatten(1).sum(1) if values.dim() > 1 else values


def _in_order(batches: list[Tensor]) -> Tensor:
    """Return the values of all batches of all ranks (N,), on the CPU, in the order of the data.

    The ranks take turns: the first has the samples 0, R, 2R and so on of the R ranks.
    """
    shares = of_all_ranks(torch.cat(batches).cpu())
    values = torch.empty(sum(map(len, shares)), dtype=shares[0].dtype)
    for rank, share in enumerate(shares):
        values[rank :: len(shares)] = share
    return values
