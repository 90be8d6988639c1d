"""The values of a sweep become jobs: every combination, but for keys that are swept together."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import Override

from lamella.errors import RequestError, nearest


def combinations(overrides: Sequence[Override], zipped: Sequence[Sequence[str]]) -> list[list[str]]:
    """The overrides of each job; the last key varies fastest.

    zipped: keys that are swept together, a list for each group. Raises RequestError.
    """
    values = {override.get_key_element(): _values(override) for override in overrides}
    groups: list[list[tuple[str, ...]]] = []
    done: set[str] = set()
    together = {key: group for group in zipped for key in _checked(group, values)}
    for key in values:
        if key not in done:
            keys = list(together.get(key, [key]))
            done.update(keys)
            groups.append(list(zip(*(values[one] for one in keys), strict=True)))
    return [[text for part in parts for text in part] for parts in itertools.product(*groups)]


def swept_keys(overrides: Sequence[Override]) -> list[str]:
    """The keys that have more than one value."""
    return [override.get_key_element() for override in overrides if override.is_sweep_override()]


def zipped_keys(value: Any) -> list[list[str]]:
    """What `sweep.zip` says, as a list of groups of keys. Raises RequestError."""
    groups = value or []
    if isinstance(groups, list) and groups and all(isinstance(key, str) for key in groups):
        groups = [groups]
    lists = isinstance(groups, list) and all(isinstance(group, list) and len(group) > 1 for group in groups)
    if not lists or not all(isinstance(key, str) for group in groups for key in group):
        raise RequestError(
            f"sweep.zip is {value!r}; it takes two or more keys, as [optimizer.lr,data.batch_size], or a list of such",
            "sweep.zip",
        )
    keys = [key for group in groups for key in group]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice:
        raise RequestError(f"sweep.zip names {twice} twice", "sweep.zip")
    return groups


def _values(override: Override) -> list[str]:
    """The texts that set a key, one for each value."""
    key = override.get_key_element()
    if override.is_interval_sweep():
        raise RequestError(
            f"{override.input_line}: an interval has no end of values; "
            "write choice(…) or range(…), or search it with hydra/sweeper=optuna",
            key,
        )
    if not override.is_sweep_override():
        return [str(override.input_line)]
    found = [f"{key}={value}" for value in override.sweep_string_iterator()]
    if not found:
        raise RequestError(f"{override.input_line}: there is no value in this", key)
    return found


def _checked(group: Sequence[str], values: Mapping[str, list[str]]) -> Sequence[str]:
    """The keys of a group, if they are there and have as many values each."""
    for key in group:
        if key not in values:
            raise RequestError(f"sweep.zip: {key} has no values here; {nearest(key, values)}", "sweep.zip")
    counts = {key: len(values[key]) for key in group}
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{key} {count}" for key, count in counts.items())
        raise RequestError(f"sweep.zip: the keys have different numbers of values: {said}", "sweep.zip")
    return group
