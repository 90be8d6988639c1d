"""lamella reproduce RUN: train again from the record, and say whether the result is bit for bit the same.

lamella reproduce outputs/default/defaults
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lamella.commands.parser import CommandParser
from lamella.config.moved_targets import present_name
from lamella.config.overrides import apply_overrides
from lamella.config.values import Config, walk
from lamella.console import print
from lamella.distributed import rank
from lamella.errors import RequestError
from lamella.runs.names import OUTPUTS, claim_directory
from lamella.runs.reader import read_epochs, read_run
from lamella.runs.schema import RunRecord

if TYPE_CHECKING:
    from torch import Tensor

    Weights = Mapping[str, Tensor]

MOVED = (
    "data.root",
    "data.source.root",
    "data.path",
    "data.source.path",
    "data.paths",
    "data.source.paths",
)  # the keys that may change: where the data is now
MEASURED = ("seconds", "samples_per_second")  # times, which are never the same
CHECKPOINTS = ("best", "last")
PRUNING = "lamella.sweeps.search.pruning.Pruning"


def main(arguments: list[str]) -> int:
    """Train a run again, and return the exit status: 1 if the result differs."""
    parser = CommandParser(__doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help=f"where its data is now: {', '.join(MOVED)}")
    options = parser.parse_args(arguments)
    path: Path = options.run
    record, config = read_run(path)
    keys = [key for key, _ in walk(config) if key in MOVED]
    config = apply_overrides(config, record, options.overrides, keys, "has to be as it was in the run")
    if rank() > 0:
        from lamella.experiment.session import join_run

        return join_run()
    epochs, finished = read_epochs(path), record["status"] == "finished"
    if not epochs:
        raise RequestError(f"{path}: it has not finished an epoch, so there is nothing to compare with")
    if not finished:
        print(f"the run is {record['status']}: its {len(epochs)} epochs are compared, and not its final result")
    weights = _read_checkpoints(path) if finished else {}  # read first: a checkpoint may be missing
    status, new_path, new_record = _train_again(path, record, config)
    if status:
        return status
    differences = [*_epoch_differences(epochs, read_epochs(new_path))]
    if finished:
        if len(epochs) != record["epochs"]:
            differences.append(f"metrics.jsonl: it holds {len(epochs)} epochs of {record['epochs']}")
        differences += _number_differences("at the end", record["metrics"], new_record["metrics"])
        differences += _weight_differences(weights, _read_checkpoints(new_path))
    if not differences:
        compared = "the weights of best.ckpt and last.ckpt, and " if finished else ""
        print(f"\nreproduced: {compared}every metric of {len(epochs)} epochs, bit for bit those of {path}")
        return 0
    count = len(differences)
    shown = "the only difference" if count == 1 else f"the first and the last of {count} differences"
    print(f"\nNOT reproduced; {shown}:")
    print(*(f"  {line}" for line in dict.fromkeys((differences[0], differences[-1]))), sep="\n")
    causes = list(_possible_causes(path, record, new_path, new_record))
    print("differences between the two environments:", *(causes or ["none is recorded"]), sep="\n  ")
    return 1


def _train_again(path: Path, record: RunRecord, config: Config) -> tuple[int, Path, RunRecord]:
    """Train the run in `path` again, and return the exit status, the new directory and the new record."""
    from lamella.experiment.build import prepare_experiment
    from lamella.experiment.session import create_run, train_run

    config = _as_on_the_first_machine(record, config)
    experiment = prepare_experiment(config)
    make_directory = partial(claim_directory, OUTPUTS / experiment.name, path.resolve().name)
    reads, choices = record["reads"], record["choices"]
    run = create_run(experiment, make_directory, config, record["overrides"], reads, choices, reproduces=str(path))
    status = train_run(experiment, run)
    return status, run.path, run.fields


def _as_on_the_first_machine(record: RunRecord, config: Config) -> Config:
    """Return the config with the values that it left open, as they were on the machine of the run."""
    device = dict(config["device"])
    if device.get("threads") is None:
        device["threads"] = record.get("environment", {}).get("threads")
    if device.get("accelerator") == "auto" and record["device"] == "cpu":
        device["accelerator"] = "cpu"
    # A trial that a search has ended early ends after the same epoch, without a study to ask.
    callbacks = [
        {**node, "epochs": record["epochs"]}
        if isinstance(node, dict) and present_name(str(node.get("_target_"))) == PRUNING
        else node
        for node in config["trainer"].get("callbacks") or []
    ]
    return {**config, "device": device, "trainer": {**config["trainer"], "callbacks": callbacks}}


def _read_checkpoints(path: Path) -> "dict[str, Weights]":
    """Return the weights in the best and in the last checkpoint of a run. Raises RequestError if one is missing."""
    from lamella.runs.checkpoints import find_checkpoint, read_weights

    return {name: read_weights(find_checkpoint(path, name)) for name in CHECKPOINTS}


def _weight_differences(before: "Mapping[str, Weights]", now: "Mapping[str, Weights]") -> Iterator[str]:
    """Yield a line for each checkpoint whose weights are not bit for bit the same."""
    for name, weights in before.items():
        different = [key for key in {**weights, **now[name]} if not _is_same(weights.get(key), now[name].get(key))]
        if different:
            yield f"{name}.ckpt: {len(different)} of {len(weights)} tensors, the first is {different[0]}"


def _is_same(one: "Tensor | None", other: "Tensor | None") -> bool:
    return one is not None and other is not None and one.dtype == other.dtype and one.equal(other)


def _epoch_differences(before: Sequence[Mapping[str, float]], now: Sequence[Mapping[str, float]]) -> Iterator[str]:
    """Yield a line for each metric of an epoch that differs."""
    for number, (one, other) in enumerate(zip(before, now, strict=False), 1):
        yield from _number_differences(f"epoch {number}", one, other)


def _number_differences(place: str, before: Mapping[str, float], now: Mapping[str, float]) -> Iterator[str]:
    for name, value in before.items():
        if name not in MEASURED and repr(now.get(name)) != repr(value):  # compared as text, so that NaN equals NaN
            yield f"{place}, {name}: {now.get(name)} instead of {value}"


def _possible_causes(path: Path, before: RunRecord, new_path: Path, now: RunRecord) -> Iterator[str]:
    """Yield a line for each difference between the two runs in versions, machine and code."""
    groups: dict[str, tuple[Mapping[str, object], Mapping[str, object]]] = {
        "versions": (before["versions"], now["versions"]),
        "environment": (before.get("environment", {}), now.get("environment", {})),
        "git": (before["git"] or {}, now["git"] or {}),
    }
    for group, (one, other) in groups.items():
        for name in sorted({*one, *other}):
            if one.get(name) != other.get(name):
                recorded = one.get(name, "one that the record does not name")
                yield f"{group} {name}: {other.get(name)} instead of {recorded}"
    patches = [(run / "git.patch").read_bytes() if (run / "git.patch").is_file() else b"" for run in (path, new_path)]
    if patches[0] != patches[1]:
        yield "git.patch: other uncommitted changes"
    if before.get("inexact"):
        yield f"its record says that its bits may differ: {', '.join(before['inexact'])}"
