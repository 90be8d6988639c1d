"""What a search chooses from: the values of an override, as Optuna draws them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from lamella.errors import RequestError


def distribution(override: Override, sampler: str) -> Any:
    """What Optuna draws a key's value from."""
    import optuna

    found, key = override.value(), override.get_key_element()
    kinds = optuna.distributions
    if sampler == "grid" and isinstance(found, IntervalSweep):
        raise RequestError(f"{override.input_line}: a grid takes choice(…) or range(…)", key)
    unknown = {tag for tag in getattr(found, "tags", ()) if tag != "log"}
    if unknown:
        raise RequestError(
            f"{override.input_line}: the tag {min(unknown)!r} means nothing here; write tag(log, …)", key
        )
    try:
        if isinstance(found, IntervalSweep):
            log, low, high = "log" in found.tags, found.start, found.end
            if isinstance(low, int) and isinstance(high, int):
                return kinds.IntDistribution(low, high, log=log)
            return kinds.FloatDistribution(float(low or 0.0), float(high or 0.0), log=log)
        values = list(override.sweep_string_iterator())
        if isinstance(found, RangeSweep) and len(values) > 1:
            numbers = list(map(float, values))
            low, high, step = min(numbers), max(numbers), abs(numbers[1] - numbers[0])
            if all(one.is_integer() for one in numbers) and isinstance(found.step, int):
                return kinds.IntDistribution(int(low), int(high), step=int(step))
            return kinds.FloatDistribution(low, high, step=step)
        return kinds.CategoricalDistribution(values)
    except ValueError as error:
        raise RequestError(f"{override.input_line}: {error}", key) from error


def all_points(distribution: Any) -> list[Any]:
    """All values of a distribution, of choices or with steps."""
    if hasattr(distribution, "choices"):
        return list(distribution.choices)
    low, high, step = distribution.low, distribution.high, distribution.step
    return [low + step * i for i in range(round((high - low) / step) + 1)]


def corner_jobs(overrides: Sequence[Override], space: Mapping[str, Any]) -> Iterator[list[str]]:
    """Jobs in which each choice, and each end of a range, is there once."""
    first = {one.get_key_element(): str(one.input_line) for one in overrides}
    ends = {key: list(getattr(one, "choices", ())) or [one.low, one.high] for key, one in space.items()}
    first |= {key: f"{key}={override_text(tried[0])}" for key, tried in ends.items()}
    yield list(first.values())
    for key, tried in ends.items():
        for point in tried[1:]:
            yield list({**first, key: f"{key}={override_text(point)}"}.values())


def override_text(value: Any) -> str:
    """A value as an override has it; six digits are enough, and make a name that can be read."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
