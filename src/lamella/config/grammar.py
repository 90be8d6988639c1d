"""Hydra's grammar for overrides, by which every command reads KEY=VALUE."""

import re
import shlex
from collections.abc import Sequence

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser, create_functions
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from lamella.config.hints import hint_for_word
from lamella.errors import RequestError, first_line, nearest

PARSER = OverridesParser.create()


def parse_overrides(texts: Sequence[str], several: bool = False, loader: ConfigLoader | None = None) -> list[Override]:
    """Return overrides such as `optimizer.lr=0.1`, parsed.

    several: whether an override may have several values, as in a sweep. loader: finds the options of a group for
    `glob(*)`. Raises RequestError with the place and the reason for a text that Hydra cannot parse.
    """
    overrides = []
    for text in texts:
        try:
            override = PARSER.parse_override(text)
        except HydraException as error:
            raise RequestError(f"{text}: {_problem(text, error)}") from error
        except RecursionError as error:
            raise RequestError(f"{text}: its brackets are nested too deep") from error
        if override.is_sweep_override() and not several:
            key, values = override.key_or_group, text.partition("=")[2]
            written = f"; a list is {key}=[{values}]" if override.value_type and "," in values else ""
            raise RequestError(f"{text}: several values are a sweep, which takes `lamella train -m`{written}")
        override.config_loader = loader
        overrides.append(override)
    return overrides


def _problem(text: str, error: HydraException) -> str:
    """Return why Hydra cannot parse a text, and what to write instead."""
    key, equals, value = text.partition("=")
    if not equals:
        return hint_for_word(text)
    message = str(error)
    if " while evaluating " in message:
        return _wrong_call(key, value, message)
    place = _place(error)
    if place is not None and place < len(key):
        if text[place].isspace():
            words = text.split()
            if len(words) > 1 and all(not word.startswith("=") and not word.endswith("=") for word in words):
                return f"these are {len(words)} words; leave out the quotes around them"
            return f"there is no space around the equals sign; write {key.strip()}={value.strip()}"
        return f"{text[place]!r} at character {place + 1} cannot be in a key"
    if value.startswith("="):
        return f"there is one equals sign; write {key}={value.lstrip('=')}"
    opened, closed = (sum(map(value.count, brackets)) for brackets in ("[{(", "]})"))
    if opened > closed:
        return f"a bracket is not closed; where spaces are meant, put quotes around all of it: '{text} …'"
    if value.rstrip().endswith(","):
        return f"there is no space between several values; write {key}={value.rstrip()}…"
    reason = message
    if place and place < len(text):  # otherwise the text has ended too early
        reason = f"{text[place]!r} at character {place + 1} is not part of a plain value"
    reason = reason.partition(" expecting ")[0]
    bare = re.sub(r"""(["'])([^"']*)\1(?=\s*:)""", r"\2", value)
    if value.startswith("{") and bare != value:
        return f"{reason}; leave the quotes around the key out: {shlex.quote(f'{key}={bare}')}"
    if value.startswith(("{", "[")):
        return f"{reason}; put quotes around the text that it is in, within the brackets"
    quoted = f"{key}={QuotedString(value, Quote.double).with_quotes()}"
    return f"{reason}; put quotes around the value: {shlex.quote(quoted)}"


def _place(error: HydraException) -> int | None:
    """Return the number of the character at which the parser stopped, or None if it is not known."""
    cause = error.__cause__
    token = getattr(cause, "offendingToken", None)
    place = getattr(cause, "startIndex", None) if token is None else token.start
    return place if isinstance(place, int) else None


def _wrong_call(key: str, value: str, message: str) -> str:
    """Return why a function in a value, such as `range(0,3)`, cannot be called."""
    name = value.partition("(")[0]
    unknown = re.search(r"Unknown function '(.*)'", message)
    if unknown:
        return f"there is no function {unknown[1]!r}; {nearest(unknown[1], create_functions().functions)}"
    reason = first_line(HydraException(message.partition("': ")[2]))
    wrong_type = re.match(r"mismatch type argument (\S+): (\w+) is incompatible", reason)
    if wrong_type:
        given = {"NoneType": "null", "str": "text", "QuotedString": "text"}.get(wrong_type[2], wrong_type[2])
        reason = f"{name} does not take {given}"
    if name == "choice" and value.endswith(")"):
        reason += f"; write {key}={value.removeprefix('choice(').removesuffix(')')}"
    return reason
