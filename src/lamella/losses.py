"""What a loss compares a network's output with, and what is counted beside it."""

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

# The losses that read class indices; every other one reads targets of the output's shape.
INDEXED = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss)
# The losses whose output is a logit for each of several labels.
LABELS = (nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss)


def metric_for(loss: nn.Module, targets: Tensor) -> str:
    """What is counted beside the loss: accuracy, or for targets that are numbers the mean absolute error."""
    return "accuracy" if targets.dtype == torch.int64 or isinstance(loss, LABELS) else "mae"


def probabilities(output: Tensor, loss: nn.Module) -> Tensor:
    """What a network gives, (B, K), as probabilities: of each label alone, or of the classes, which sum to 1."""
    return output.sigmoid() if isinstance(loss, LABELS) else output.softmax(1)


def targets_for(loss: nn.Module, output: Tensor, targets: Tensor) -> Tensor:
    """What the loss compares `output` with: class indices become one-hot floats where it does not read indices."""
    if targets.dtype == torch.int64 and not isinstance(loss, INDEXED):
        return one_hot(targets, output.shape[1]).to(output.dtype)
    return targets


def score(metric: str, output: Tensor, targets: Tensor, compared: Tensor) -> Tensor:
    """The sum of what `metric` judges in a batch: right answers, or absolute errors. compared: as of `targets_for`."""
    if metric == "mae":
        return (output - compared).abs().sum()
    if targets.dtype == torch.int64:
        return (output.argmax(1) == targets).sum()
    return ((output > 0) == (targets > 0.5)).sum()


def weighted(loss: nn.Module) -> bool:
    """Whether the loss is a weighted mean: by class, or because some samples do not count."""
    return isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss) and (loss.weight is not None or loss.ignore_index >= 0)


def weights(loss: nn.CrossEntropyLoss | nn.NLLLoss, classes: int, device: torch.device) -> Tensor:
    """What a sample of each class counts in the mean of a weighted loss (classes,)."""
    found = torch.ones(classes, device=device) if loss.weight is None else loss.weight.clone()
    if 0 <= loss.ignore_index < classes:
        found[loss.ignore_index] = 0
    return found
