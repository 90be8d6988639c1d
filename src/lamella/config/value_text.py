"""The values that texts have in overrides, for conditions and tables."""

import re
from functools import lru_cache

from lamella.errors import RequestError


def parse_value(text: str) -> object:
    """Return the value that a text has in an override, by Hydra's grammar; a text that cannot be read is returned."""
    # Most values are numbers and names, and Hydra's parser takes a thousand times as long.
    if re.fullmatch(r"[+-]?(0|[1-9]\d{0,15})", text, re.ASCII):
        return int(text)
    if re.fullmatch(r"[+-]?(0|[1-9]\d{0,15})(\.\d+)?([eE][+-]?\d+)?", text, re.ASCII):
        return float(text)
    if re.fullmatch(r"[A-Za-z_]\w*", text, re.ASCII) and text.lower() not in ("true", "false", "null", "nan", "inf"):
        return text
    return _parse(text)


@lru_cache(maxsize=10_000)
def _parse(text: str) -> object:
    from lamella.config.grammar import parse_overrides  # imports Hydra, which most lists of runs can do without

    try:
        [override] = parse_overrides([f"key={text}"])
    except RequestError:
        return text
    return override.value()
