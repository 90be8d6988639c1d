"""Combine the values of a sweep into jobs: one for each combination; keys in `sweep.zip` change together."""

import itertools
from collections.abc import Mapping, Sequence

from hydra.core.override_parser.types import Override

from lamella.errors import RequestError, nearest


def combinations(overrides: Sequence[Override], zipped: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the overrides of each job; the values of the last key change fastest.

    zipped: the groups of keys that change together. Raises RequestError where a group is not possible.
    """
    values = {override.get_key_element(): _values(override) for override in overrides}
    for group in zipped:
        _check_zipped(group, values)
    group_of = {key: tuple(group) for group in zipped for key in group}
    groups = dict.fromkeys(group_of.get(key, (key,)) for key in values)
    choices = [list(zip(*(values[key] for key in group), strict=True)) for group in groups]
    return [[text for texts in job for text in texts] for job in itertools.product(*choices)]


def swept_keys(overrides: Sequence[Override]) -> list[str]:
    """Return the keys whose overrides have several values."""
    return [override.get_key_element() for override in overrides if override.is_sweep_override()]


def zipped_keys(value: object) -> list[list[str]]:
    """Return the groups of keys in `value`, which is that of `sweep.zip`. Raises RequestError for other values."""
    groups = value or []
    if isinstance(groups, list) and groups and all(isinstance(key, str) for key in groups):
        groups = [groups]  # a single group may be written without the outer list
    lists = isinstance(groups, list) and all(isinstance(group, list) and len(group) > 1 for group in groups)
    if not isinstance(groups, list) or not lists or not all(isinstance(key, str) for group in groups for key in group):
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
    """Return one override for each value of the key. Raises RequestError where there are none, or endlessly many."""
    key = override.get_key_element()
    if override.is_interval_sweep():
        raise RequestError(
            f"{override.input_line}: an interval has no end of values; "
            "write choice(…) or range(…), or search it with hydra/sweeper=optuna",
            key,
        )
    if not override.is_sweep_override():
        return [str(override.input_line)]
    texts = [f"{key}={value}" for value in override.sweep_string_iterator()]
    if not texts:
        raise RequestError(f"{override.input_line}: there is no value in this", key)
    return texts


def _check_zipped(group: Sequence[str], values: Mapping[str, list[str]]) -> None:
    """Raise RequestError unless all keys of the group have values, and equally many."""
    for key in group:
        if key not in values:
            raise RequestError(f"sweep.zip: {key} has no values here; {nearest(key, values)}", "sweep.zip")
    counts = {key: len(values[key]) for key in group}
    if len(set(counts.values())) > 1:
        text = ", ".join(f"{key} {count}" for key, count in counts.items())
        raise RequestError(f"sweep.zip: the keys have different numbers of values: {text}", "sweep.zip")
