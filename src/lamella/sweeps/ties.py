"""Say which rows of a leaderboard cannot be told from the best, by bootstrap over samples and over seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lamella.runs.sample_metrics import Array

CONFIDENCE = 0.95
REPLICATES = 999  # of the bootstrap; (REPLICATES + 1) * CONFIDENCE is a whole number
MOST_SEEDS = 100  # more seeds than this are not counted
SMALLEST = 1e-20  # a variance below this is a rounding error
LARGEST = 2**24  # how many numbers of the bootstrap are computed at once
# The runs of a row: for each set of samples, the values of the metric, one array (N,) for each run.
Row = Mapping[object, Sequence[Array]]


@dataclass(frozen=True)
class Comparison:
    """The rows of a leaderboard compared with the best one, the first.

    margin: half of the interval of the difference to the best row (R,). tied: whether the interval contains 0 (R,);
    True for the best row. seeds: for each row that is tied with the best, about how many more runs each of the two rows
    takes until they can be told apart (R,); infinite where more runs do not tell, or more than MOST_SEEDS; NaN where
    that is not known, because no row has several runs, and for the other rows. samples: how many there are.
    over_seeds: whether the interval is over seeds too.
    """

    margin: Array
    tied: Array
    seeds: Array
    samples: int
    over_seeds: bool


def compare_rows(rows: Sequence[Row], random: int = 0) -> Comparison:
    """Compare rows that were judged by the same samples with the best one, at a joint confidence of 95 %.

    rows: at least one, the best one first; each has the same sets of samples, with the same shares of its runs.
    random: the seed of the bootstrap.

    A metric is the mean over the N samples of a set and over the S runs of a row, so it varies with both (Bouthillier
    et al. 2021, "Accounting for variance in machine learning benchmarks"). The half-width of the interval for rows i
    and j is

        sqrt(a² var_samples(i, j) + b² (var_seeds(i) + var_seeds(j)))

    var_samples is the variance of the mean over the samples of the difference of the two rows, paired by sample as in
    Dror et al. (2018, "The hitchhiker's guide to testing statistical significance in NLP"). var_seeds is the variance
    of the runs of a row divided by S, or that of the runs of all rows where it is larger, because the variance of two
    or three runs is often too small by chance. The sum counts what varies with both the sample and the seed twice, as
    the bootstrap over samples and seeds of Owen (2007, "The pigeonhole bootstrap") does, and is conservative.

    a and b are 95 % quantiles of the largest difference between any two rows, in units of its own standard error, if
    all rows were equal. So of leaderboards of equal rows, at most 5 % call any row different, however many rows there
    are and though the best one was chosen by the result (Hsu 1996, "Multiple comparisons"). a comes from a bootstrap
    over samples, in common for all rows, with normal multipliers (Efron and Tibshirani 1993, "An introduction to the
    bootstrap"; Chernozhukov, Chetverikov and Kato 2013); b from a parametric bootstrap over seeds, in which the
    variance of the runs is estimated anew each time, as by Student. Each part has its own quantile, because runs are
    few and samples are many (Banerjee 1960).
    """
    generator = np.random.default_rng(random)
    parts = _Parts.of(rows)
    first, second = np.triu_indices(len(rows), 1)
    covariance = parts.covariance
    variance = np.maximum(np.diag(covariance)[first] + np.diag(covariance)[second] - 2 * covariance[first, second], 0)
    count = min(REPLICATES, max(199, LARGEST // max(1, len(first))))
    values, vectors = np.linalg.eigh(covariance)
    shifts = generator.standard_normal((count, len(rows))) @ (vectors * np.sqrt(np.maximum(values, 0))).T
    a = _largest(shifts, lambda pairs: variance[None, pairs], first, second)
    freedom = parts.freedom.sum()
    margin_squares = a**2 * _from_best(variance, len(rows))
    over_seeds = bool(freedom)
    seeds = np.full(len(rows), np.nan)
    if over_seeds:
        noise = generator.standard_normal((count, len(rows))) / np.sqrt(parts.runs)
        drawn = generator.chisquare(np.maximum(parts.freedom, 1), (count, len(rows))) / np.maximum(parts.freedom, 1)
        variances = _at_least_pooled(drawn, parts.freedom) / parts.runs
        b, b_known = (
            _largest(noise, lambda pairs, of=of: of[:, first[pairs]] + of[:, second[pairs]], first, second)  # type: ignore[misc]
            for of in (variances, 1 / parts.runs[None])
        )
        of_runs = _at_least_pooled(parts.variances[None], parts.freedom)[0]
        margin_squares += b**2 * (of_runs / parts.runs + of_runs[0] / parts.runs[0]) * (np.arange(len(rows)) > 0)
    margin = np.sqrt(margin_squares)
    difference = np.abs(parts.means[0] - parts.means)
    tied = difference <= margin + 1e-12
    if over_seeds:
        # With more runs, the quantile falls as that of Student does, with the inverse of the degrees of freedom.
        more = np.arange(1, MOST_SEEDS + 1)[:, None]
        b_then = b_known + (b - b_known) * freedom / (freedom + len(rows) * more)
        runs = parts.runs + more
        fixed = np.maximum(_from_best(variance, len(rows)) - _with_best(parts.interaction / parts.runs), 0)
        then = a**2 * (fixed + _with_best(parts.interaction / runs)) + b_then**2 * _with_best(of_runs / runs)
        enough = then < difference**2
        seeds = np.where(enough.any(0), 1.0 + enough.argmax(0), np.inf)
        seeds[~tied] = seeds[0] = np.nan
    return Comparison(margin, tied, seeds, parts.samples, over_seeds)


@dataclass(frozen=True)
class _Parts:
    """The means of R rows and what they vary with.

    means: over samples and runs (R,). covariance: of the means, over samples (R, R). runs: of each row (R,). variances:
    of the runs of each row around their mean (R,), 0 where it has one for each set of samples. freedom: the degrees of
    freedom of the variances (R,). interaction: by how much the variance over samples of a row falls if it has
    infinitely many runs, times the number of its runs (R,). samples: the number of all.
    """

    means: Array
    covariance: Array
    runs: Array
    variances: Array
    freedom: Array
    interaction: Array
    samples: int

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "_Parts":
        count = len(rows)
        runs = np.array([sum(len(of_set) for of_set in row.values()) for row in rows], dtype=float)
        means, squares, freedom, interaction = (np.zeros(count) for _ in range(4))
        covariance, samples = np.zeros((count, count)), 0
        for key in rows[0]:
            sets = [np.stack(row[key]).astype(np.float32, copy=False) for row in rows]
            share, number = len(sets[0]) / runs[0], sets[0].shape[1]
            by_sample = np.stack([values.mean(0) for values in sets])
            of_runs = [values.mean(1, dtype=np.float64) for values in sets]
            samples += number
            means += share * np.array([values.mean() for values in of_runs])
            centered = by_sample - by_sample.mean(1, keepdims=True)
            covariance += share**2 * (centered @ centered.T).astype(np.float64) / max(1, number - 1) / number
            for row, (values, run_means) in enumerate(zip(sets, of_runs, strict=True)):
                free = len(values) - 1
                if not free:
                    continue
                squares[row] += ((run_means - run_means.mean()) ** 2).sum()
                freedom[row] += free
                rest = values - run_means[:, None].astype(np.float32) - centered[row]
                interaction[row] += share * (rest**2).sum(dtype=np.float64) / free / max(1, number - 1) / number
        return cls(means, covariance, runs, squares / np.maximum(freedom, 1), freedom, interaction, samples)


def _at_least_pooled(variances: Array, freedom: Array) -> Array:
    """Return the variances of rows (B, R), or that of all rows together where it is larger."""
    pooled = (variances * freedom).sum(1, keepdims=True) / freedom.sum()
    larger: Array = np.maximum(np.where(freedom > 0, variances, 0), pooled)
    return larger


def _largest(shifts: Array, variance: Callable[[slice], Array], first: Array, second: Array) -> float:
    """Return the 95 % quantile of the largest difference between two rows, in units of its standard error.

    shifts: of the rows in each replicate (B, R). variance: returns that of the differences of some of the pairs
    (B or 1, pairs). first, second: the rows of each pair.
    """
    largest = np.zeros(len(shifts))
    step = max(1, LARGEST // len(shifts))
    for start in range(0, len(first), step):
        pairs = slice(start, start + step)
        differences, variances = np.abs(shifts[:, first[pairs]] - shifts[:, second[pairs]]), variance(pairs)
        # Rows that have answered each sample alike do not differ.
        units = np.where(variances > SMALLEST, differences / np.sqrt(np.maximum(variances, SMALLEST)), 0)
        largest = np.maximum(largest, units.max(1))
    return float(np.sort(largest)[int(np.ceil(CONFIDENCE * (len(largest) + 1))) - 1])


def _from_best(pairs: Array, rows: int) -> Array:
    """Return what belongs to the pairs of the first row and each row (R,), 0 for the first itself."""
    return np.concatenate([[0.0], pairs[: rows - 1]])


def _with_best(of_rows: Array) -> Array:
    """Return the sum of what belongs to each row and to the first one (…, R), 0 for the first itself."""
    both: Array = of_rows + of_rows[..., :1]
    both[..., 0] = 0
    return both
