"""What a loss compares a network's output with, and what is counted beside it."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

# The losses that read class indices; every other one reads targets of the output's shape.
INDEXED = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss)
# The losses whose output is a logit for each of several labels.
LABELS = (nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss)


def output_activation(loss: nn.Module) -> Literal["sigmoid", "softmax"]:
    """Return the function that makes probabilities of logits: sigmoid for labels, softmax for classes."""
    return "sigmoid" if isinstance(loss, LABELS) else "softmax"


def probabilities(output: Tensor, loss: nn.Module) -> Tensor:
    """Return the probabilities (B, K) of logits (B, K): of each label by itself, or of classes, which sum to 1."""
    return output.sigmoid() if output_activation(loss) == "sigmoid" else output.softmax(1)


def loss_targets(loss: nn.Module, output: Tensor, targets: Tensor) -> Tensor:
    """What the loss compares `output` with: class indices become one-hot floats where it does not read indices."""
    if targets.dtype == torch.int64 and not isinstance(loss, INDEXED):
        return one_hot(targets, output.shape[1]).to(output.dtype)
    return targets


def is_weighted(loss: nn.Module) -> bool:
    """Whether the loss is a weighted mean: by class, or because some samples do not count."""
    return isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss) and (loss.weight is not None or loss.ignore_index >= 0)


def class_weights(loss: nn.CrossEntropyLoss | nn.NLLLoss, classes: int, device: torch.device) -> Tensor:
    """What a sample of each class counts in the mean of a weighted loss (classes,)."""
    found = torch.ones(classes, device=device) if loss.weight is None else loss.weight.clone()
    if 0 <= loss.ignore_index < classes:
        found[loss.ignore_index] = 0
    return found
