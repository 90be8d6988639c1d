"""lamella reproduce RUN: train again from the record, and say whether the result is bit for bit the same.

lamella reproduce outputs/default/defaults
lamella reproduce --chain outputs/fine/defaults
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lamella.commands.parser import CommandParser
from lamella.config.moved_targets import present_name
from lamella.config.overrides import apply_overrides
from lamella.config.values import Config, key_of, walk
from lamella.console import print
from lamella.distributed import rank
from lamella.errors import RequestError
from lamella.runs.names import OUTPUTS, claim_directory
from lamella.runs.reader import read_epochs, read_run
from lamella.runs.schema import RunRecord

if TYPE_CHECKING:
    from torch import Tensor

    from lamella.data import RunData

    Weights = Mapping[str, Tensor]

MOVED = (
    "data.root",
    "data.source.root",
    "data.path",
    "data.source.path",
    "data.paths",
    "data.source.paths",
    "network.weights",
    "network.weights.from",
)  # the keys that may change: where the data and the weights are now
MEASURED = ("seconds", "samples_per_second")  # times, which are never the same
CHECKPOINTS = ("best", "last")
PRUNING = "lamella.sweeps.search.pruning.Pruning"


def main(arguments: list[str]) -> int:
    """Train a run again, and return the exit status: 1 if the result differs."""
    parser = CommandParser(__doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help=f"where its data is now: {', '.join(MOVED)}")
    parser.add_argument("--chain", action="store_true", help="first reproduce the run whose weights it began with")
    options = parser.parse_intermixed_args(arguments)
    parser.check_one_run(options.overrides)
    if rank() > 0:
        from lamella.experiment.session import join_run

        return join_run()
    return _reproduce(options.run, options.overrides, options.chain)[0]


def _reproduce(path: Path, overrides: Sequence[str], chain: bool, is_parent: bool = False) -> tuple[int, Path]:
    """Train the run in `path` again and print whether the result is the same.

    chain: first reproduce the run whose weights it began with, and begin with those of the reproduction. is_parent: the
    run is that one; its checkpoints may be gone, and keys that it does not have are passed over. Returns the exit
    status and the new directory, that of the run itself where nothing was trained.
    """
    record, config = read_run(path)
    keys = [key for key, value in walk(config) if key in MOVED and not isinstance(value, Mapping)]
    given = [text for text in overrides if key_of(text) in keys] if is_parent else overrides
    config = apply_overrides(config, record, given, keys, "has to be as it was in the run")
    epochs, finished = read_epochs(path), record["status"] == "finished"
    if not epochs:
        raise RequestError(f"{path}: it has not finished an epoch, so there is nothing to compare with")
    if not finished:
        print(f"the run is {record['status']}: its {len(epochs)} epochs are compared, and not its final result")
    kept = not is_parent or all((path / f"checkpoints/{name}.ckpt").exists() for name in CHECKPOINTS)
    weights = _read_checkpoints(path) if finished and kept else {}  # read first: a checkpoint may be missing
    parent = record["weights"] if chain and "checkpoint" in record.get("weights", {}) else None
    if parent:
        _check_chain(config, parent["from"])
        status, new_parent = _reproduce(Path(parent["from"]), overrides, chain=True, is_parent=True)
        if status:
            print(f"{path} is not trained again, because the run that it began with is another one now")
            return status, path
        config = _beginning_with(config, new_parent)
    status, new_path, new_record, other_data = _train_again(path, record, config, checked=not parent)
    if status:
        return status, new_path
    differences = [*_epoch_differences(epochs, read_epochs(new_path))]
    if finished:
        if len(epochs) != record["epochs"]:
            differences.append(f"metrics.jsonl: it holds {len(epochs)} epochs of {record['epochs']}")
        differences += _number_differences("at the end", record["metrics"], new_record["metrics"])
        differences += _weight_differences(weights, _read_checkpoints(new_path))
    if not differences:
        compared = "the weights of best.ckpt and last.ckpt, and " if weights else ""
        print(f"\nreproduced: {compared}every metric of {len(epochs)} epochs, bit for bit those of {path}")
        return 0, new_path
    count = len(differences)
    shown = "the only difference" if count == 1 else f"the first and the last of {count} differences"
    print(f"\nNOT reproduced; {shown}:")
    print(*(f"  {line}" for line in dict.fromkeys((differences[0], differences[-1]))), sep="\n")
    causes = [*(f"data: {what}" for what in other_data), *_possible_causes(path, record, new_path, new_record)]
    print("differences between the two environments:", *(causes or ["none is recorded"]), sep="\n  ")
    return 1, new_path


def _check_chain(config: Config, parent: str) -> None:
    """Raise RequestError where a run and the one before it cannot be trained by one process. parent: its directory."""
    from lamella.training.device import needs_own_program, process_count, resolve_accelerator

    for one in (config, read_run(Path(parent))[1]):
        trainer, accelerator = one["trainer"], resolve_accelerator(one["device"]["accelerator"])
        if needs_own_program(trainer, process_count(trainer, accelerator)):
            raise RequestError(
                f"--chain: runs of several processes cannot follow each other in one command; reproduce {parent} and\n"
                "  then this run, each without --chain",
                "trainer.devices",
            )


def _beginning_with(config: Config, run: Path) -> Config:
    """Return the config of a run that begins with the weights of another run in place of the recorded one."""
    weights = config["network"]["weights"]
    weights = {**weights, "from": str(run)} if isinstance(weights, Mapping) else str(run)
    return {**config, "network": {**config["network"], "weights": weights}}


def _train_again(
    path: Path, record: RunRecord, config: Config, checked: bool
) -> tuple[int, Path, RunRecord, list[str]]:
    """Train the run in `path` again. Returns the exit status, the new directory, the new record, and what data differ.

    checked: whether it has to begin with weights from the same file, if it began with any.
    """
    from lamella.data.fingerprint import changed
    from lamella.experiment.build import prepare_experiment
    from lamella.experiment.session import create_run, train_run

    config = _as_on_the_first_machine(record, config)
    experiment = prepare_experiment(config)
    if experiment.weights and "weights" in record and checked:
        experiment.weights.check(record["weights"])
    make_directory = partial(claim_directory, OUTPUTS / experiment.name, path.resolve().name)
    reads, choices = record["reads"], record["choices"]
    run = create_run(experiment, make_directory, config, record["overrides"], reads, choices, reproduces=str(path))
    other_data = _other_data(path, experiment.data)
    if other_data:
        print(f"note: the data are not those of {path}; {changed(other_data)}", file=sys.stderr)
    status = train_run(experiment, run)
    return status, run.path, run.fields, other_data


def _other_data(path: Path, data: "RunData") -> list[str]:
    """Return what is not as it was in the run in `path`, as far as its last checkpoint, if there is one, tells."""
    from lamella.lightning_internals import datamodule_key
    from lamella.runs.checkpoints import newest_checkpoint, read_checkpoint

    try:
        checkpoint = newest_checkpoint(path / "checkpoints")[0]
    except RequestError:  # all are damaged
        checkpoint = None
    if checkpoint is None:
        return []
    return data.differences(read_checkpoint(checkpoint).get(datamodule_key(type(data))), "fit")


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
