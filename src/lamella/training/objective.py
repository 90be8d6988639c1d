"""Say what a network predicts: how the loss reads targets, what an output means, and which answers are right."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from lamella.errors import RequestError
from lamella.network.inputs import Inputs

# The losses that take class indices. All others take targets of the output's shape, unless their `reads` is "classes".
INDEXED = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss)
# The losses that take logarithms of probabilities.
LOGARITHMIC = (nn.NLLLoss, nn.KLDivLoss)
# The losses that take the output as one logit for each of several labels.
LABELS = (nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss)
# The losses whose samples can have different weights in the mean.
WEIGHTED = (nn.CrossEntropyLoss, nn.NLLLoss)
# The losses whose targets are 1 and -1.
SIGNED = (nn.SoftMarginLoss, nn.HingeEmbeddingLoss)

Kind = Literal["classes", "labels", "numbers", "other"]


@dataclass(frozen=True)
class Objective:
    """What a network is trained to predict: the one place that knows how a loss, outputs and targets fit together.

    loss: of a batch, a scalar. kind: "classes" for class indices, of samples (B,) or of the positions in samples
    (B, …); "labels" for 0 or 1 for each of several labels, floats (B, K, …); "numbers" for floats (B, …); "other" where
    a task of one's own does not compare an output with the targets. class_dim:
    the dimension of an output that holds the classes, 1 for (B, K, …) or -1 for (B, …, K). ignored: the class index of
    samples or positions that do not count, None if all count.
    """

    loss: nn.Module
    kind: Kind
    class_dim: Literal[1, -1] = 1
    ignored: int | None = None

    @classmethod
    def of(
        cls,
        loss: nn.Module,
        targets: Sequence[Tensor],
        output: tuple[int, ...],
        classes: int,
        ending: str = "",
        class_dim: object = None,
        sampled: bool = False,
    ) -> "Objective":
        """Return the objective of a loss for these targets.

        targets: of each split, class indices (N, …), or floats (N, …). output: the shape of the network's output for
        one sample. classes: how many there are. ending: what ends the network, for messages. class_dim: 1 or -1, None
        to find it by the shapes. sampled: whether there are further targets, of which some may not count. Raises
        RequestError where the output and the targets do not fit together.
        """
        if class_dim not in (None, 1, -1):
            raise RequestError(f"network.class_dim is {class_dim!r}; it takes 1 or -1", "network.class_dim")
        shape = tuple(targets[0].shape[1:])
        if targets[0].is_floating_point():
            if class_dim is not None:
                raise RequestError(
                    "network.class_dim is for targets that are classes; leave it out", "network.class_dim"
                )
            if output != shape:
                raise RequestError(
                    f"network: it gives {output} for a sample, but a target is {shape}{ending}", "network.layers"
                )
            return cls(loss, "labels" if isinstance(loss, LABELS) else "numbers")
        fitting = {1: (classes, *shape), -1: (*shape, classes)}
        found = [dim for dim, expected in fitting.items() if output == expected and class_dim in (None, dim)]
        if not found:
            takes = " or ".join(str(expected) for expected in dict.fromkeys(fitting.values()))
            at = f" for each of {shape} positions" if shape else ""
            raise RequestError(
                f"network: it gives {output} for a sample, where {classes} classes{at} take {takes}{ending}",
                "network.layers",
            )
        if len(found) > 1 and shape:
            raise RequestError(
                f"network: it gives {output} for a sample, in which the {classes} classes may be the first or "
                "the last dimension; write network.class_dim=1 for the first, or network.class_dim=-1 for the last",
                "network.class_dim",
            )
        # Not compared with plain numbers, which are converted to the type of the targets, where they may not fit.
        known, index = torch.tensor([classes]), getattr(loss, "ignore_index", None)
        outside = {int(one) for part in targets for one in set(part[(part < 0) | (part >= known)].tolist())}
        if others := outside - {index}:
            raise RequestError(
                f"loss: {type(loss).__name__} takes every target for a class, and {min(others)} (data.ignored) is "
                "none; take loss=cross_entropy, which leaves it out",
                "loss",
            )
        occurs = index is not None and (index >= 0 or index in outside or sampled)
        return cls(loss, "classes", 1 if found[0] == 1 else -1, index if occurs else None)

    @property
    def metric(self) -> str:
        """Return the metric that is always counted beside the loss: "accuracy", "mae" for numbers, or "" for none."""
        return {"numbers": "mae", "other": ""}.get(self.kind, "accuracy")

    @property
    def is_classifier(self) -> bool:
        """Return True if the network predicts classes or labels, False if it predicts numbers."""
        return self.kind in ("classes", "labels")

    @cached_property
    def weighted(self) -> bool:
        """Return True if the loss is a weighted mean: it has class weights, or leaves samples or positions out."""
        has_weights = isinstance(self.loss, WEIGHTED) and self.loss.weight is not None
        return self.kind == "classes" and (has_weights or self.ignored is not None)

    @property
    def activation(self) -> Literal["sigmoid", "softmax"] | None:
        """Return the function that turns outputs into probabilities: sigmoid for labels, softmax for classes.

        None if the outputs are probabilities, as for BCELoss.
        """
        if isinstance(self.loss, nn.BCELoss):
            return None
        return "sigmoid" if isinstance(self.loss, LABELS) else "softmax"

    def __call__(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a batch, a scalar. output: of the network (B, …). targets: as the data gives them."""
        value: Tensor = self.loss(self.read_output(output), self.read_targets(output, targets))
        return value

    def read_output(self, output: Tensor) -> Tensor:
        """Return an output (B, …) in the form in which the loss takes it: classes in dimension 1."""
        if self.class_dim == 1 or output.dim() == 2:
            return output
        return output.flatten(0, -2) if self._reads_indices else output.movedim(-1, 1)

    def read_targets(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return targets in the form in which the loss takes them: unchanged, or classes as one-hot floats.

        output: of the network (B, …), for the number of classes and the type. Classes of mixed images are probabilities
        (B, K) already.
        """
        if self.kind != "classes":
            return targets
        if targets.is_floating_point():
            return targets.to(output.dtype)
        if self._reads_indices:
            return targets.flatten() if self.class_dim == -1 else targets
        return one_hot(targets, output.shape[self.class_dim]).movedim(-1, 1).to(output.dtype)

    def indices(self, targets: Tensor) -> Tensor:
        """Return targets as the data gives them; of mixed images, whose classes are probabilities, the likeliest (B,).

        targets: of a training batch (B, …).
        """
        return targets.argmax(1) if self.kind == "classes" and targets.is_floating_point() else targets

    @cached_property
    def _reads_indices(self) -> bool:
        return isinstance(self.loss, INDEXED) or getattr(self.loss, "reads", None) == "classes"

    def probabilities(self, output: Tensor) -> Tensor:
        """Return the probabilities (B, K, …) of an output: of each label, or of classes, which then sum to 1."""
        output = self.by_class(output)
        match self.activation:
            case "sigmoid":
                return output.sigmoid()
            case "softmax":
                return output.softmax(1)
        return output

    def by_class(self, output: Tensor) -> Tensor:
        """Return an output with the classes or labels in dimension 1."""
        return output if self.class_dim == 1 else output.movedim(-1, 1)

    def predicted(self, output: Tensor) -> Tensor:
        """Return the indices (B, …) of the classes with the largest outputs."""
        # On the CPU, `argmax` takes ten times as long as `max` where the classes are not the last dimension.
        return output.max(self.class_dim).indices

    def scores(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return the metric of each answer in a batch (B, …): whether it is right, or its absolute error.

        Answers that do not count are not right.
        """
        if self.kind == "numbers":
            return (output - targets).abs()
        if self.kind == "labels":
            return (output > 0) == (targets > 0.5)
        right = self.predicted(output) == targets
        return right if self.ignored is None else right & (targets != self.ignored)

    def metric_sum(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the metric over a batch, a scalar: of right answers, or of absolute errors."""
        return self.scores(output, targets).sum()

    def answers(self, targets: Tensor) -> int | Tensor:
        """Return the number of answers in a batch that the metric is about."""
        return targets.numel() if self.ignored is None else (targets != self.ignored).sum()

    def weight(self, targets: Tensor) -> Tensor:
        """Return the weight that a batch has in the mean of a weighted loss, a scalar, float32."""
        if not isinstance(self.loss, WEIGHTED) or (weight := self.loss.weight) is None:
            return torch.as_tensor(self.answers(targets), dtype=torch.float32, device=targets.device)
        if self.ignored is None:
            return weight[targets].sum()
        return (weight[targets.clamp(0, len(weight) - 1)] * (targets != self.ignored)).sum()

    def confusion(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return how often each class was predicted for each true class, int64 (K, K): rows true, columns predicted."""
        classes, predicted = output.shape[self.class_dim], self.predicted(output)
        if self.ignored is not None:
            counted = targets != self.ignored
            targets, predicted = targets[counted], predicted[counted]
        pairs = torch.bincount((targets * classes + predicted).flatten(), minlength=classes * classes)
        return pairs.view(classes, classes)

    def check(self, targets: Tensor) -> None:
        """Raise RequestError for a loss that is not made for these targets, or that has to be trained itself.

        targets: of the training samples (N, …).
        """
        name = type(self.loss).__name__
        if isinstance(self.loss, SIGNED) and (self.kind == "classes" or not bool((targets.abs() == 1).all())):
            instead = "for classes take loss=cross_entropy or loss=bce_with_logits"
            raise RequestError(
                f"loss: {name} takes targets of 1 and -1, but the targets have other values; {instead}", "loss"
            )
        if isinstance(self.loss, nn.CrossEntropyLoss) and self.kind == "numbers" and not _are_probabilities(targets):
            raise RequestError(
                f"loss: {name} takes classes, but the targets are numbers; for numbers take loss=mse, for labels of 0 "
                "and 1 take loss=bce_with_logits",
                "loss",
            )
        if self.kind == "labels" and not bool(((targets >= 0) & (targets <= 1)).all()):
            raise RequestError(f"loss: {name} takes labels from 0 to 1; for other numbers take loss=mse", "loss")
        if next(self.loss.parameters(), None) is not None:
            raise RequestError(
                f"loss: {name} has parameters, and the optimizer trains those of the network alone; put them there",
                "loss",
            )

    @torch.no_grad()
    def check_logarithms(self, network: nn.Module, inputs: Inputs) -> None:
        """Raise RequestError if the loss takes logarithms of probabilities, and the network gives other numbers."""
        if not isinstance(self.loss, LOGARITHMIC) or self.kind != "classes":
            return
        if not bool(((self.by_class(network(inputs)).float().exp().sum(1) - 1).abs() < 0.05).all()):
            raise RequestError(
                f"loss: {type(self.loss).__name__} takes logarithms of probabilities, and the network gives other "
                "numbers; end it with LogSoftmax: 1, or take loss=cross_entropy",
                "loss",
            )

    def check_mixing(self, name: str) -> None:
        """Raise RequestError if the loss does not take probabilities of classes. name: of the mixing transform."""
        title, why = type(self.loss).__name__, ""
        if not isinstance(self.loss, nn.CrossEntropyLoss) or self.kind != "classes":
            why = (
                f"loss: {name} gives an image the classes of two, which {title} does not take; take loss=cross_entropy"
            )
        elif self.loss.weight is not None:
            why = (
                f"loss.weight: {name} gives an image the classes of two, and the mean of {title} then is no weighted "
                "one; take data.sampler=balanced, and loss.weight=null"
            )
        elif self.ignored is not None:
            why = (
                f"loss: {name} gives an image the classes of two, and {self.ignored}, which does not count, is the "
                f"class of some; leave {name} out"
            )
        if why:
            raise RequestError(why, why.partition(":")[0])


def _are_probabilities(targets: Tensor) -> bool:
    """Return True if targets (N, classes, …) may be probabilities of the classes, which sum to 1."""
    return targets.dim() > 1 and bool(((targets.sum(1) - 1).abs() < 1e-3).all())
