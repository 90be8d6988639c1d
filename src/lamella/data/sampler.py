"""The order in which an epoch takes samples, cut into batches: each sample once, or drawn by the weights of classes."""

from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Order:
    """The batches that one rank takes in each epoch, as indices of samples, which depend on (seed, epoch) alone.

    samples: how many there are. batch_size: the number of samples in a batch, over all ranks. shuffle: draw a new order
    for each epoch from `seed`. drop_last: leave out the last batch if it is smaller than the others; only with
    `shuffle`. rank, world: this process, and how many share each batch. weights: with which each sample is then drawn
    (samples,), with replacement; None takes each once.

    When the samples are shuffled, every batch is cut from one permutation, and each rank takes its share. Up to
    world - 1 samples of the last batch are left out, so that the shares are equal and the mean of the ranks' gradients
    is the gradient of the batch. When they are not shuffled, every sample is served once, on one of the ranks. All
    ranks have the same number of batches, because they wait for each other in each batch.
    """

    samples: int
    batch_size: int
    shuffle: bool = False
    drop_last: bool = False
    seed: int = 0
    rank: int = 0
    world: int = 1
    weights: Tensor | None = None

    @property
    def size(self) -> int:
        """Return the number of samples in a batch of one rank."""
        return max(1, self.batch_size // self.world)

    @property
    def count(self) -> int:
        """Return the number of samples that an epoch takes, over all ranks."""
        return self.samples - self.samples % (self.batch_size if self.drop_last else self.world) * self.shuffle

    def __len__(self) -> int:
        """Return the number of batches of an epoch, which is the same on every rank."""
        largest_share = -(-self.count // self.world)
        return -(-largest_share // self.size)

    def batches(self, epoch: int, device: torch.device | str = "cpu") -> Sequence[Tensor]:
        """Return the indices of each batch of an epoch, int64 (B,) on `device`."""
        order = torch.arange(self.samples)
        if self.shuffle:
            order = epoch_order(self.samples, self.seed, epoch, self.weights)
        share, count = order[: self.count][self.rank :: self.world].to(device), len(self)
        if len(share) > self.size * (count - 1):
            return torch.split(share, self.size) if count else ()
        return share.tensor_split(count)  # the share of another rank is larger by a sample
