"""Which of two results is the better one."""

import math

from lamella.runs.schema import RunRecord


def larger_is_better(key: str) -> bool:
    """Return True for metrics that are maximised (accuracy), False for losses, errors and keys that are no metrics."""
    return "/" in key and not key.endswith(("loss", "mae"))


def direction_sign(name: str) -> float:
    """Return 1.0 where a larger value of `name` is better, else -1.0."""
    return 1.0 if larger_is_better(name) else -1.0


def record_value(fields: RunRecord, name: str) -> float | None:
    """Return the metric or the numeric field `name` of a record, None where it is missing or not finite."""
    value = fields["metrics"].get(name, fields.get(name))
    return value if isinstance(value, int | float) and math.isfinite(value) else None
