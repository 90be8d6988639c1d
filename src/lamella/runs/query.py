"""Conditions on the keys of runs, and the order in which runs are sorted by a key."""

import operator
from collections.abc import Callable

ORDER: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
NOT_IN_QUOTES = r"(?=(?:[^']*'[^']*')*[^']*$)"  # a lookahead that matches only outside of quotation marks


def meets(value: object, sign: str, wanted: object) -> bool:
    """Return whether `value` meets the condition `sign wanted`, such as `<= 3` or `!= failed`."""
    if sign not in ORDER:
        same = value == wanted or (isinstance(value, str | list | dict) and str(value) == str(wanted))
        return same == (sign != "!=")
    return isinstance(value, int | float) and isinstance(wanted, int | float) and ORDER[sign](value, wanted)


def sort_key(value: object) -> tuple[bool, float | str]:
    """Return a key that sorts values of any types: numbers first, then the text of all others."""
    if isinstance(value, int | float) and value == value:
        return False, value
    return True, str(value)
