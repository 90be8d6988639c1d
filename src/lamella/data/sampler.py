"""The order in which an epoch takes the training samples: each once, or drawn by the weights of their classes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lamella.errors import RequestError
from lamella.seeds import ORDER, generator


def class_weights(sampler: str | Sequence[float] | None, targets: Tensor, classes: int) -> Tensor | None:
    """Return the weight with which each sample is drawn, float64 (N,), None where each is taken once.

    sampler: "balanced" for the same weight for each class as a whole, a weight for a sample of each class, or None.
    targets: class indices (N,). classes: how many there are, 0 where the targets are no classes. Raises RequestError.
    """
    if sampler is None:
        return None
    if not classes:
        raise RequestError(
            f"data.sampler is {sampler}; it weighs classes, and the targets of these samples are none; leave it null",
            "data.sampler",
        )
    indices = targets.long()
    counted = (indices >= 0) & (indices < classes)  # others are ignored by the loss
    counts = torch.bincount(indices[counted], minlength=classes).double()
    if sampler == "balanced":
        weights = 1 / counts.clamp(min=1)
    else:
        numbers = [] if isinstance(sampler, str) else list(sampler)
        right = all(isinstance(number, int | float) and 0 <= number < float("inf") for number in numbers)
        if len(numbers) != classes or not right or not (torch.tensor(numbers) * counts).sum() > 0:
            raise RequestError(
                f"data.sampler is {sampler}; it takes balanced, null, or a list of a weight for each of the "
                f"{classes} classes",
                "data.sampler",
            )
        weights = torch.tensor(numbers, dtype=torch.float64)
    return weights[indices.clamp(0, classes - 1)] * counted


def epoch_order(count: int, seed: int, epoch: int, weights: Tensor | None) -> Tensor:
    """Return the indices of the samples of an epoch in their order (count,), which depend on the arguments alone.

    weights: with which each sample is drawn (count,), with replacement; None for a permutation.
    """
    random = generator(seed, epoch, ORDER)
    if weights is None:
        return torch.randperm(count, generator=random)
    sums = weights.cumsum(0)
    drawn = torch.rand(count, dtype=torch.float64, generator=random) * sums[-1]
    # With `right`, a sample of weight 0 is never drawn. Rounding may reach the end of the last one.
    return torch.searchsorted(sums, drawn, right=True).clamp(max=int(weights.nonzero()[-1]))
