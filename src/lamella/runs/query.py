"""Conditions on the keys of runs, and the order in which runs are sorted by a key."""

import operator
import re
from collections.abc import Callable
from datetime import date, datetime
from typing import Any

from rich.cells import cell_len

from lamella.config.value_text import parse_value
from lamella.errors import RequestError

ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
SIGNS = "< <= = != >= > ~ in"
Values = Callable[[str], object]  # returns a run's value of a key, None where the run has no such key
Condition = Callable[[Values], bool]


def parse_condition(text: str, check: Callable[[str], None]) -> Condition:
    """Return the function that says whether the values of a run meet the condition in `text`.

    A condition compares a key with a value, as `optimizer.lr<1e-2`, `tags ~ good` or `seed in [1, 2]`. `not`, `and`,
    `or` and parentheses combine conditions; `not` binds most tightly and `or` least tightly.

    check: called with each key; raises RequestError for an unknown one. Raises RequestError, whose message points to
    the place in the text.
    """
    return _Parser(text, check).whole()


def sort_key(value: object) -> tuple[bool, float | str]:
    """Return a key that sorts values of any types: numbers first, then the text of all others."""
    if isinstance(value, int | float) and value == value:
        return False, value
    return True, str(value)


class _Parser:
    """A recursive descent through the text of a condition. place: the index of the first letter that is not read."""

    def __init__(self, text: str, check: Callable[[str], None]) -> None:
        self.text, self.check, self.place = text.rstrip(), check, 0

    def whole(self) -> Condition:
        condition = self.alternatives()
        if self.place < len(self.text):
            self.take(r"\s*")
            raise self.error(
                "between two conditions, write `and` or `or`; put quotes around a value that contains a space",
                self.place,
            )
        return condition

    def alternatives(self) -> Condition:
        parts = [self.conjunction()]
        while self.take(r"\s*or(?=[\s(]|$)"):
            parts.append(self.conjunction())
        return lambda values: any(part(values) for part in parts)

    def conjunction(self) -> Condition:
        parts = [self.factor()]
        while self.take(r"\s*and(?=[\s(]|$)"):
            parts.append(self.factor())
        return lambda values: all(part(values) for part in parts)

    def factor(self) -> Condition:
        if self.take(r"\s*not(?=[\s(]|$)"):
            inner = self.factor()
            return lambda values: not inner(values)
        self.take(r"\s*")
        start = self.place
        if not self.take(r"\("):
            return self.comparison()
        inner = self.alternatives()
        if not self.take(r"\s*\)"):
            raise self.error("this parenthesis is not closed", start, start + 1)
        return inner

    def comparison(self) -> Condition:
        start = self.place
        key = self.take(r"[\w./-]+")
        if not key:
            raise self.error(f"a condition is missing here; write KEY, one of {SIGNS}, and a value", start)
        try:
            self.check(key)
        except RequestError as error:
            raise self.error(str(error), start, self.place) from error
        sign = (self.take(r"\s*(<=|>=|!=|==|=|<|>|~|in(?=[\s\[]))") or "").strip()
        if not sign:
            raise self.error(f"{key} is not a condition; write KEY, one of {SIGNS}, and a value", start, self.place)
        self.take(r"\s*")
        start = self.place
        text, quoted = self.value()
        try:
            _check_sign(key, sign, text)
            meets = _test(sign, text, quoted)
        except ValueError as error:
            raise self.error(str(error), start, self.place) from error
        return lambda values: meets(values(key))

    def value(self) -> tuple[str, bool]:
        """Return the text of a value, without its quotes, and whether it has quotes."""
        if quoted := self.take(r"'[^']*'|\"[^\"]*\""):
            return quoted[1:-1], True
        start, open_brackets = self.place, list[int]()
        if self.take(r"(?=[<>=!]|\s*\)|\s*$)") is not None:
            raise self.error("a value is missing here", start)
        while self.place < len(self.text):
            letter = self.text[self.place]
            if not open_brackets and (letter.isspace() or letter == ")"):
                break
            if letter in "([{":
                open_brackets.append(self.place)
            elif letter in ")]}" and open_brackets:
                open_brackets.pop()
            # Within brackets, a space or a bracket may stand in quotes.
            self.take(r"'[^']*'|\"[^\"]*\"|." if open_brackets else r".")
        if open_brackets:
            raise self.error("this bracket is not closed", open_brackets[-1], open_brackets[-1] + 1)
        return self.text[start : self.place], False

    def take(self, pattern: str) -> str | None:
        """Read what matches `pattern` at this place, and return it; None where nothing matches."""
        match = re.compile(pattern, re.S).match(self.text, self.place)
        if match is None:
            return None
        self.place = match.end()
        return match[0]

    def error(self, problem: str, start: int, end: int | None = None) -> RequestError:
        """Return the error that points to a part of the text, by default to the word that begins at `start`."""
        if end is None:
            end = start + len(re.match(r"\S*", self.text[start:])[0])  # type: ignore[index]
        shown = re.sub(r"\s", " ", self.text)
        pointer = " " * cell_len(shown[:start]) + "^" * max(1, cell_len(shown[start:end]))
        return RequestError(f"{problem}\n  {shown}\n  {pointer}")


def _check_sign(key: str, sign: str, text: str) -> None:
    """Raise ValueError for a comparison that no run can meet, because of what the key holds."""
    if sign not in ("=", "==", "!="):
        return
    if key == "tags" and not text.startswith("["):
        raise ValueError(f"tags is a list; write {'not ' * (sign == '!=')}tags ~ {text}")
    if key in ("started", "finished") and text != "null" and _moment(text) is None:
        raise ValueError(f"{key} is a date, and {text!r} is none; write it as 2026-11-28 or '2026-11-28 18:30'")


def _test(sign: str, text: str, quoted: bool) -> Callable[[object], bool]:
    """Return the function that compares a value of a run with `text`. Raises ValueError where that cannot be done."""
    wanted = text if quoted else parse_value(text)
    if sign == "~":
        return lambda value: _contains(value, text)
    if sign == "in":
        if not isinstance(wanted, list):
            raise ValueError("`in` takes a list, as in [1, 2]")
        return lambda value: any(_equals(value, item) for item in wanted)
    if sign in ORDER:
        moment, compare = _moment(text), ORDER[sign]
        if moment is not None:
            return lambda value: (pair := _moments(value, moment)) is not None and compare(*pair)
        if not isinstance(wanted, int | float):
            raise ValueError(f"{sign} compares with a number or a date, and {text!r} is neither of them")
        return lambda value: isinstance(value, int | float) and compare(value, wanted)
    return lambda value: _equals(value, wanted) == (sign != "!=")


def _equals(value: object, wanted: object) -> bool:
    """Return whether a value of a run is the wanted one. A day is equal to each time within it."""
    if value == wanted or (isinstance(value, str | list | dict) and str(value) == str(wanted)):
        return True
    moment = _moment(wanted)
    pair = None if moment is None else _moments(value, moment)
    return pair is not None and pair[0] == pair[1]


def _contains(value: object, text: str) -> bool:
    """Return whether a list has the item `text`, or a text contains it, in capitals or in small letters."""
    if isinstance(value, list):
        return any(str(item) == text for item in value)
    return value is not None and text.casefold() in str(value).casefold()


def _moment(value: object) -> date | None:
    """Return the day, or the datetime in the time zone of this machine, that a text in ISO 8601 names."""
    if not isinstance(value, str) or not re.match(r"\d{4}-\d\d-\d\d", value, re.ASCII):
        return None
    try:
        return date.fromisoformat(value) if len(value) == 10 else datetime.fromisoformat(value).astimezone()
    except (ValueError, OverflowError):
        return None


def _moments(value: object, wanted: date) -> tuple[date, date] | None:
    """Return a value of a run and the wanted one as two days where one of them has no time of day, else as two times.

    None where the value is no date.
    """
    moment = _moment(value)
    if moment is None:
        return None
    if isinstance(moment, datetime) and isinstance(wanted, datetime):
        return moment, wanted
    return date(moment.year, moment.month, moment.day), date(wanted.year, wanted.month, wanted.day)
