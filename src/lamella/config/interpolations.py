"""Interpolations in a config: which key reads which, how many have to be resolved, and arithmetic in them."""

import math
import re
from collections.abc import Mapping

from lamella.config.values import Config, walk
from lamella.errors import RequestError

MOST = 10_000  # interpolations that a config may have, each counted with those that it leads to
READ = re.compile(r"\$\{(?:[\w.]+:)?(\.*[\w.\[\]-]++)(?!:)")


def arithmetic(name: str, *values: object) -> int | float:
    """Return the result of `${add:…}`, `${mul:…}` or `${div:…}`, which is a whole number wherever it can be one.

    Raises RequestError for values that are no numbers, and for a division by zero or of more than two numbers.
    """
    example = f"${{{name}:${{network.width}},2}}"
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) != len(values) or len(values) < 2 or (name == "div" and len(values) > 2):
        count = "two numbers" if name == "div" else "two numbers or more"
        raise RequestError(f"{name}: it takes {count}, as in {example}, and not {', '.join(map(repr, values))}")
    if name != "div":
        return sum(numbers) if name == "add" else math.prod(numbers)
    above, below = numbers
    if below == 0:
        raise RequestError(f"div: {above} cannot be divided by 0")
    if isinstance(above, int) and isinstance(below, int) and above % below == 0:
        return above // below
    return above / below


def interpolated_keys(config: Config) -> dict[str, str]:
    """Return a dict that maps each key whose whole value is one interpolation to the key that it interpolates."""
    matched = ((key, re.fullmatch(r"\$\{(\w[\w.]*)\}", value)) for key, value in walk(config) if isinstance(value, str))
    return {key: match[1] for key, match in matched if match}


def keys_read(value: object, key: str) -> list[str]:
    """Return the keys that the interpolations in a value read. key: of the value, which relative keys begin from."""
    texts = [(place, text) for place, text in [(key, value), *walk(value, key)] if isinstance(text, str)]
    return [_absolute(read, place) for place, text in texts for read in READ.findall(text)]


def check_interpolations(config: Config) -> None:
    """Raise RequestError for interpolations that lead to so many others that resolving them would take for ever."""
    counts: dict[str, int] = {}

    def count(key: str) -> int:
        if key not in counts:
            counts[key] = 0  # one that leads back to itself is an error of OmegaConf's
            counts[key] = sum(1 + count(read) for read in keys_read(_select(config, key), key))
        return counts[key]

    for key in config:
        if count(key) > MOST:
            deepest = min((number, name) for name, number in counts.items() if number > MOST)[1]
            raise RequestError(
                f"{deepest}: its interpolations lead to more than {MOST:,} others; write the values themselves", deepest
            )


def _select(config: Config, key: str) -> object:
    """Return the value of a dotted key, or None if there is no such key."""
    node: object = config
    for part in key.split("."):
        if isinstance(node, Mapping):
            node = node.get(part)
        elif isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            return None
    return node


def _absolute(read: str, place: str) -> str:
    """Return the key that an interpolation reads. A dot at its beginning stands for the node that `place` is in."""
    name = re.sub(r"\[(\w+)\]", r".\1", read).strip(".")
    dots = len(read) - len(read.lstrip("."))
    return ".".join([*place.split(".")[:-dots], name]) if dots else name
