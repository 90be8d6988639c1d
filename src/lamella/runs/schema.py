"""The shapes of `run.json`, the record of a run, and of `sweep.json`, the record of a sweep."""

from dataclasses import dataclass
from types import UnionType
from typing import Literal, NotRequired, TypedDict, Union, get_args, get_origin, get_type_hints

from lamella.config.values import Config

RECORD_FORMAT = 1  # a record of a later format gets a number of its own, and this one stays readable
SWEEP_FORMAT = 1  # the format of sweep.json and plan.jsonl
Status = Literal["running", "finished", "failed", "interrupted"]
STATES = get_args(Status)
WeightsKind = Literal["trained", "averaged"]
# How much of the machine a run has used, as "mean", "peak" and the "seconds" in which that was measured, by the names
# that `lamella.training.machine_use.MachineUse` lists.
Usage = dict[str, dict[str, float]]


class RunRequest(TypedDict):
    """The fields of `run.json` that are known before a run starts.

    overrides: from the command line. parameters: the number of parameters of the network. images: whether the inputs
    are images. metric: the metric that is always counted beside the loss. lower_is_better: the metrics of which less is
    better. job: Slurm's job id. reads: maps each key whose whole value is one interpolation to the key that it
    interpolates. choices: the option of each config group. reproduces: the run that this run repeats. weights: those
    with which the network begins: `from`, a run or a file, the `checkpoint` of a run, and the `sha256` of the file.
    """

    name: str
    overrides: list[str]
    seed: int
    device: str
    images: bool
    metric: str
    lower_is_better: NotRequired[list[str]]  # not in records of earlier versions
    reads: dict[str, str]
    choices: dict[str, str]
    parameters: NotRequired[int]
    job: NotRequired[str | None]
    reproduces: NotRequired[str]
    weights: NotRequired[dict[str, str]]


class RunRecord(RunRequest):
    """The fields of `run.json`.

    metrics: `train/…` and `val/…` of the best epoch, and `test/…` of its checkpoint. stopped: why the run ended before
    its last epoch, None for all other runs. best_weights: whether best.ckpt holds the weights that a step has given, or
    an average of them; None before the end of the run. started, finished: ISO 8601, UTC. environment: what the bits of
    the result depend on beside the config. inexact: why the bits may differ from those of an uninterrupted run by
    itself. compiled: what came of compiling the steps: `seconds`, and `failure`, why none was compiled; None where none
    was to be compiled.
    """

    format: int
    status: Status
    epochs: int
    steps: int
    seconds: float
    started: str
    metrics: dict[str, float]
    best_epoch: NotRequired[int | None]
    versions: dict[str, object]
    git: NotRequired[dict[str, object] | None]
    finished: NotRequired[str | None]
    stopped: NotRequired[str | None]
    best_weights: NotRequired[WeightsKind | None]
    error: NotRequired[str | None]
    environment: NotRequired[dict[str, object]]
    inexact: NotRequired[list[str]]
    usage: NotRequired[Usage]
    compiled: NotRequired[dict[str, object] | None]


class RecordChanges(TypedDict, total=False):
    """The fields of `run.json` that change after the run has been created."""

    status: Status
    overrides: list[str]
    epochs: int
    steps: int
    seconds: float
    metrics: dict[str, float]
    best_epoch: NotRequired[int | None]
    finished: str | None
    stopped: str | None
    best_weights: WeightsKind
    error: str | None
    environment: NotRequired[dict[str, object]]
    inexact: list[str]
    usage: NotRequired[Usage]
    compiled: NotRequired[dict[str, object]]


class SweepRecord(TypedDict):
    """The fields of `sweep.json`.

    arguments: the command line. launcher: the values of `hydra.launcher`. monitor, metric, lower_is_better: as in
    the runs. objectives: the metrics that rank the runs. swept: the keys that differ between the runs. over: the keys
    in which the runs of one row of the leaderboard differ. threads: the CPU threads of each run, None where torch
    decides. max_failures: how many failed runs end the sweep, None for any number. search: the space and the directory
    of a search. pruned: the names of the runs that a search has ended early. estimate: what the jobs of a command were
    expected to take, in seconds and bytes, and the seconds that they `took`.
    """

    format: int
    arguments: list[str]
    launcher: Config
    monitor: str
    metric: str
    lower_is_better: NotRequired[list[str]]  # not in records of earlier versions
    objectives: list[str]
    swept: list[str]
    over: NotRequired[list[str]]  # not in records of earlier versions
    threads: int | None
    max_failures: int | None
    search: NotRequired[dict[str, str]]
    pruned: NotRequired[list[str]]
    estimate: NotRequired[dict[str, float]]


class SweepChanges(TypedDict, total=False):
    """The fields of `sweep.json` that change after the sweep has been created."""

    arguments: list[str]
    launcher: Config
    objectives: list[str]
    swept: list[str]
    over: list[str]
    max_failures: int | None
    pruned: list[str]
    estimate: dict[str, float]


def wrong_field(fields: dict[str, object], schema: type) -> str | None:
    """Return the name of the first field that is missing or has a value of a wrong type, None where all are right.

    schema: RunRecord or SweepRecord.
    """
    for name, check in _CHECKS[schema].items():
        if name not in fields:
            if check.optional:
                continue
            return name
        value = fields[name]
        items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        right = isinstance(value, check.types) and all(isinstance(item, check.item_types) for item in items)
        if not right or (check.allowed and value not in check.allowed):
            return name
    return None


@dataclass(frozen=True)
class _Check:
    """What a field has to be: the classes of its value and of the items in it, and all allowed values of a Literal."""

    optional: bool
    types: tuple[type, ...]
    item_types: tuple[type, ...]
    allowed: tuple[object, ...]

    @classmethod
    def of(cls, hint: object) -> "_Check":
        """Return the check of a field with this type hint."""
        optional = get_origin(hint) is NotRequired
        if optional:
            [hint] = get_args(hint)
        return cls(optional, _types(hint), _item_types(hint), get_args(hint) if get_origin(hint) is Literal else ())


def _types(hint: object) -> tuple[type, ...]:
    """Return the classes of which a value with this type hint is an instance."""
    if get_origin(hint) in (Union, UnionType):
        return tuple(kind for option in get_args(hint) for kind in _types(option))
    if get_origin(hint) is Literal:
        return tuple({type(value) for value in get_args(hint)})
    if hint is float:
        return (int, float)
    kind = get_origin(hint) or hint
    assert isinstance(kind, type)
    return (kind,)


def _item_types(hint: object) -> tuple[type, ...]:
    """Return the classes of the items of a list, or of the values of a dict, with this type hint; object for others."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    items = [get_args(option)[-1] for option in options if get_origin(option) in (list, dict)]
    return tuple(kind for item in items for kind in _types(item)) or (object,)


_CHECKS: dict[type, dict[str, _Check]] = {
    schema: {name: _Check.of(hint) for name, hint in get_type_hints(schema, include_extras=True).items()}
    for schema in (RunRecord, SweepRecord)
}
