"""Which of two results is the better one."""

import math
from collections.abc import Mapping
from typing import Any


def larger_is_better(key: str) -> bool:
    """Whether more of what a key names is better: of metrics all but errors, of all else nothing."""
    return "/" in key and not key.endswith(("loss", "mae"))


def direction_sign(name: str) -> float:
    """1.0 where more of this is better, else -1.0."""
    return 1.0 if larger_is_better(name) else -1.0


def record_value(fields: Mapping[str, Any], name: str) -> float | None:
    """A metric of a record, or a field of it that is a number."""
    found = fields["metrics"].get(name, fields.get(name))
    return found if isinstance(found, int | float) and math.isfinite(found) else None
