"""Which of two results is the better one."""

import math
import re
from collections.abc import Collection

from lamella.runs.schema import RunRecord

# Names of which less is better without being told, such as those that a LightningModule of the project's own logs.
LOWER = re.compile(r"loss|error|(\b|_)(mae|mse|rmse|mape|kl|nll|divergence|distance|perplexity)(\b|_)", re.I)


def larger_is_better(key: str, lower: Collection[str] | None = None) -> bool:
    """Return True for metrics that are maximised (val/accuracy), False for losses, errors and keys that are no metrics.

    lower: `lower_is_better` of a record, metrics of which less is better though their names do not say so. None for a
    record of an earlier version.
    """
    return "/" in key and not LOWER.search(key) and key.rpartition("/")[2] not in (lower or ())


def direction_sign(key: str, lower: Collection[str] | None = None) -> float:
    """Return 1.0 where a larger value of `key` is better, else -1.0. lower: as for `larger_is_better`."""
    return 1.0 if larger_is_better(key, lower) else -1.0


def record_value(fields: RunRecord, name: str) -> float | None:
    """Return the metric or the numeric field `name` of a record, None where it is missing or not finite."""
    value = fields["metrics"].get(name, fields.get(name))
    return value if isinstance(value, int | float) and math.isfinite(value) else None
