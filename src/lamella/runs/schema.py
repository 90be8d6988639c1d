"""The shape of `run.json`, the record of a run."""

from types import NoneType, UnionType
from typing import Any, Literal, NotRequired, TypedDict, Union, get_args, get_origin, get_type_hints

RECORD_FORMAT = 1  # a record of a later format gets a number of its own, and this one stays readable
Status = Literal["running", "finished", "failed", "interrupted"]


class RunRecord(TypedDict):
    """The fields of `run.json`.

    overrides: from the command line. parameters: their number. images: whether the inputs are images. metric: the
    metric beside the loss. job: Slurm's job id. reads: for each key whose whole value is an interpolation, the key
    that it reads. choices: the option of each config group. metrics: `train/…` and `val/…` of the best epoch, and
    `test/…` of its checkpoint. started, finished: ISO 8601, UTC. environment: what the bits of a result depend on
    beside the config. inexact: why the bits may differ from those of an uninterrupted run by itself. reproduces: the
    run that this run repeats.
    """

    format: int
    status: Status
    name: str
    overrides: list[str]
    seed: int
    device: str
    images: bool
    metric: str
    reads: dict[str, str]
    choices: dict[str, str]
    epochs: int
    steps: int
    seconds: float
    started: str
    metrics: dict[str, float]
    best_epoch: int | None
    versions: dict[str, str]
    git: dict[str, str | bool] | None
    parameters: NotRequired[int]
    job: NotRequired[str | None]
    finished: NotRequired[str | None]
    error: NotRequired[str | None]
    environment: NotRequired[dict[str, str | int]]
    inexact: NotRequired[list[str]]
    reproduces: NotRequired[str]


def wrong_field(fields: dict[str, object]) -> str | None:
    """Return the name of the first field that is missing or has a value of a wrong type, None where all are right."""
    for name, (kinds, inner, allowed) in _CHECKS.items():
        value = fields.get(name, _MISSING)
        if value is _MISSING and name in RunRecord.__optional_keys__:
            continue
        items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        right = isinstance(value, kinds) and all(isinstance(item, inner) for item in items)
        if not right or (allowed and value not in allowed):
            return name
    return None


def _types(hint: Any) -> tuple[type, ...]:
    """Return the classes of which a value with this type hint is an instance, without what lists and dicts contain."""
    if get_origin(hint) in (Union, UnionType):
        return tuple(kind for option in get_args(hint) for kind in _types(option))
    if get_origin(hint) is Literal:
        return tuple({type(value) for value in get_args(hint)})
    if hint is float:
        return (int, float)
    return (get_origin(hint) or hint or NoneType,)


def _inner(hint: Any) -> tuple[type, ...]:
    """Return the classes of what a list or a dict with this type hint contains."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return tuple(
        kind for option in options if get_origin(option) in (list, dict) for kind in _types(get_args(option)[-1])
    )


_MISSING = object()
_HINTS = get_type_hints(RunRecord)
_CHECKS = {
    name: (_types(hint), _inner(hint), get_args(hint) if get_origin(hint) is Literal else ())
    for name, hint in _HINTS.items()
}
STATES = get_args(Status)
