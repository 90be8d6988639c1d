"""Bring targets into the form in which a loss takes them, and outputs into probabilities."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

# The losses that take class indices. All others take targets of the output's shape.
INDEXED = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss)
# The losses that take the output as one logit for each of several labels.
LABELS = (nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss)
# The losses whose samples can have different weights in the mean.
WEIGHTED = (nn.CrossEntropyLoss, nn.NLLLoss)


def output_activation(loss: nn.Module) -> Literal["sigmoid", "softmax"]:
    """Return the function that turns logits into probabilities: sigmoid for labels, softmax for classes."""
    return "sigmoid" if isinstance(loss, LABELS) else "softmax"


def probabilities(output: Tensor, loss: nn.Module) -> Tensor:
    """Return the probabilities (B, K) of logits (B, K): one for each label, or class probabilities that sum to 1."""
    return output.sigmoid() if output_activation(loss) == "sigmoid" else output.softmax(1)


def loss_targets(loss: nn.Module, output: Tensor, targets: Tensor) -> Tensor:
    """Return the targets in the form in which the loss takes them: unchanged, or as one-hot floats.

    output: (B, K, …). targets: (B,) class indices, which become (B, K) floats unless the loss takes indices, or floats.
    """
    if targets.dtype == torch.int64 and not isinstance(loss, INDEXED):
        return one_hot(targets, output.shape[1]).to(output.dtype)
    return targets


def is_weighted(loss: nn.Module) -> bool:
    """Return True if the loss is a weighted mean: it has class weights, or leaves out the samples of a class."""
    return isinstance(loss, WEIGHTED) and (loss.weight is not None or loss.ignore_index >= 0)


def class_weights(loss: nn.CrossEntropyLoss | nn.NLLLoss, classes: int, device: torch.device) -> Tensor:
    """Return the weight that a sample of each class has in the mean of a weighted loss, floats (classes,)."""
    weights = torch.ones(classes, device=device) if loss.weight is None else loss.weight.clone()
    if 0 <= loss.ignore_index < classes:
        weights[loss.ignore_index] = 0
    return weights
