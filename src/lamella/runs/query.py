"""Conditions on the keys of runs, and their order."""

import operator
from collections.abc import Callable
from typing import Any

ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
OUTSIDE = r"(?=(?:[^']*'[^']*')*[^']*$)"  # of what stands in quotes


def meets(value: Any, sign: str, wanted: Any) -> bool:
    if sign not in ORDER:
        same = value == wanted or (isinstance(value, str | list | dict) and str(value) == str(wanted))
        return same == (sign != "!=")
    return isinstance(value, int | float) and ORDER[sign](value, wanted)


def sort_key(value: Any) -> tuple[bool, Any]:
    """A key by which values of any kinds can be sorted."""
    number = isinstance(value, int | float) and value == value
    return not number, value if number else str(value)
