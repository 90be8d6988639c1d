"""Turn the overrides of a search into the distributions from which Optuna draws values."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from lamella.errors import RequestError

if TYPE_CHECKING:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    Distribution = CategoricalDistribution | FloatDistribution | IntDistribution
    Point = str | int | float | bool | None  # a value that Optuna draws


def distribution(override: Override, sampler: str) -> "Distribution":
    """Return the distribution of the key that the override sets. Raises RequestError where there is none.

    An interval becomes a range of floats or of integers, on a logarithmic scale with the tag `log`; a range becomes one
    with steps; any other values become choices.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value, key = override.value(), override.get_key_element()
    if sampler == "grid" and isinstance(value, IntervalSweep):
        raise RequestError(f"{override.input_line}: a grid takes choice(…) or range(…)", key)
    unknown = {tag for tag in getattr(value, "tags", ()) if tag != "log"}
    if unknown:
        raise RequestError(f"{override.input_line}: there is no tag {min(unknown)!r}; write tag(log, …)", key)
    try:
        if isinstance(value, IntervalSweep):
            log, start, end = "log" in value.tags, value.start, value.end
            if isinstance(start, int) and isinstance(end, int):
                return IntDistribution(start, end, log=log)
            return FloatDistribution(float(start or 0.0), float(end or 0.0), log=log)
        texts = list(override.sweep_string_iterator())
        if isinstance(value, RangeSweep) and len(texts) > 1:
            numbers = list(map(float, texts))
            low, high, step = min(numbers), max(numbers), abs(numbers[1] - numbers[0])
            if all(number.is_integer() for number in numbers) and isinstance(value.step, int):
                return IntDistribution(int(low), int(high), step=int(step))
            return FloatDistribution(low, high, step=step)
        return CategoricalDistribution(texts)
    except ValueError as error:
        raise RequestError(f"{override.input_line}: {error}", key) from error


def all_points(distribution: "Distribution") -> "list[Point]":
    """Return all values of a distribution that has choices or steps."""
    from optuna.distributions import CategoricalDistribution

    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    low, high, step = distribution.low, distribution.high, distribution.step
    assert step is not None  # a grid takes no interval without steps
    return [low + step * i for i in range(round((high - low) / step) + 1)]


def corner_jobs(overrides: Sequence[Override], space: "Mapping[str, Distribution]") -> Iterator[list[str]]:
    """Yield the overrides of jobs in which each choice and each end of a range occurs once, so that all are checked."""
    points = {key: _ends(distribution) for key, distribution in space.items()}
    first = {override.get_key_element(): str(override.input_line) for override in overrides}
    first |= {key: f"{key}={values[0]}" for key, values in points.items()}
    yield list(first.values())
    for key, values in points.items():
        for value in values[1:]:
            yield list({**first, key: f"{key}={value}"}.values())


def _ends(distribution: "Distribution") -> list[str]:
    """Return the texts of all choices of a distribution, or of the lowest and the highest value of a range."""
    from optuna.distributions import CategoricalDistribution

    if isinstance(distribution, CategoricalDistribution):
        return list(map(override_text, distribution.choices))
    # The ends of an interval are written as floats, because all values between them are floats.
    text = str if is_interval(distribution) else override_text
    return [text(distribution.low), text(distribution.high)]


def is_interval(distribution: "Distribution") -> bool:
    """Return whether the values of a distribution are floats without steps."""
    from optuna.distributions import FloatDistribution

    return isinstance(distribution, FloatDistribution) and distribution.step is None


def override_text(value: object) -> str:
    """Return a value as text for an override. Floats get six digits, which keeps the names of directories legible."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
