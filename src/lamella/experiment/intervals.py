"""Confidence intervals of the metrics of a test, over the samples."""

import math
from collections.abc import Mapping
from statistics import NormalDist

import numpy as np
from torch import Tensor

from lamella.runs.sample_metrics import TARGETS, Array

CONFIDENCE = 0.95
REPLICATES = 999  # of the bootstrap
GROUPS = 10_000  # more samples than this are drawn in so many groups, so that the time does not grow with them
Interval = tuple[float, float]


def confidence_intervals(values: Mapping[str, Tensor], weights: Mapping[str, Tensor | None]) -> dict[str, Interval]:
    """Return the 95 % interval of each metric of a test.

    values: of each sample (N,), by the name of the metric, as `SampleMetrics` keeps them. weights: of each sample (N,),
    None where all are the same. Shares of right answers have a Wilson interval, other metrics one from a bootstrap.
    """
    intervals = {}
    for name, of_samples in values.items():
        if name == TARGETS or len(of_samples) < 2 or not bool(of_samples.isfinite().all()):
            continue
        weight = weights.get(name)
        if of_samples.is_floating_point():
            intervals[name] = bootstrap_interval(of_samples.numpy(), None if weight is None else weight.numpy())
        else:
            intervals[name] = wilson_interval(int(of_samples.sum()), len(of_samples))
    return intervals


def wilson_interval(right: int, count: int) -> Interval:
    """Return the interval of a share, `right` of `count`, after Wilson (1927), "Probable inference".

    Unlike the normal one, it has its confidence also for few samples, and for shares near 0 and 1.
    """
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    share, scale = right / count, 1 + z**2 / count
    center = (share + z**2 / (2 * count)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return max(0.0, center - half), min(1.0, center + half)


def bootstrap_interval(values: Array, weights: Array | None = None, random: int = 0) -> Interval:
    """Return the interval of a mean by the percentiles of a bootstrap (Efron and Tibshirani 1993).

    values: of each sample (N,), multiplied by its weight divided by the mean weight. weights: of each sample (N,), None
    where all are the same. random: the seed of the bootstrap.
    """
    generator = np.random.default_rng(random)
    shares = np.ones(len(values)) if weights is None else weights / weights.mean(dtype=float)
    both = np.stack([values, shares]).astype(float)
    if len(values) > GROUPS:  # sums of groups that are drawn at random vary as their samples do
        order = generator.permutation(len(values))
        starts = np.linspace(0, len(values), GROUPS, endpoint=False).astype(int)
        both = np.add.reduceat(both[:, order], starts, axis=1)
    count = both.shape[1]
    sums = np.stack([both[:, generator.integers(count, size=count)].sum(1) for _ in range(REPLICATES)])
    means = sums[:, 0] / np.maximum(sums[:, 1], 1e-12)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
