"""Bring targets into the form in which a loss takes them, and outputs into probabilities."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from lamella.errors import RequestError

# The losses that take class indices. All others take targets of the output's shape.
INDEXED = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss)
# The losses that take the output as one logit for each of several labels.
LABELS = (nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss)
# The losses whose samples can have different weights in the mean.
WEIGHTED = (nn.CrossEntropyLoss, nn.NLLLoss)
# The losses whose targets are 1 and -1.
SIGNED = (nn.SoftMarginLoss, nn.HingeEmbeddingLoss)


def check_loss(loss: nn.Module, targets: Tensor) -> None:
    """Raise RequestError for a loss that would train on targets it is not made for, or that has to be trained itself.

    targets: of the training samples, (N,) class indices or floats (N, …).
    """
    name = type(loss).__name__
    if isinstance(loss, SIGNED) and (targets.dtype == torch.int64 or not bool((targets.abs() == 1).all())):
        instead = "for classes take loss=cross_entropy or loss=bce_with_logits"
        raise RequestError(
            f"loss: {name} takes targets of 1 and -1, but the targets have other values; {instead}", "loss"
        )
    if next(loss.parameters(), None) is not None:
        raise RequestError(
            f"loss: {name} has parameters, and the optimizer trains those of the network alone; put them there", "loss"
        )


def output_activation(loss: nn.Module) -> Literal["sigmoid", "softmax"] | None:
    """Return the function that turns outputs into probabilities: sigmoid for labels, softmax for classes.

    None if the outputs are probabilities, as for BCELoss.
    """
    if isinstance(loss, nn.BCELoss):
        return None
    return "sigmoid" if isinstance(loss, LABELS) else "softmax"


def probabilities(output: Tensor, loss: nn.Module) -> Tensor:
    """Return the probabilities (B, K) of outputs (B, K): one for each label, or class probabilities that sum to 1."""
    match output_activation(loss):
        case "sigmoid":
            return output.sigmoid()
        case "softmax":
            return output.softmax(1)
    return output


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
