"""lamella reproduce RUN: train again from the record and say whether the result is bit for bit the same.

lamella reproduce outputs/default/defaults
"""

import argparse
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamella.config.overrides import apply_overrides
from lamella.config.values import walk
from lamella.errors import RequestError
from lamella.runs.names import claim_directory
from lamella.runs.reader import read_epochs, read_run
from lamella.tables import printable

if TYPE_CHECKING:
    from torch import Tensor

MOVED = ("data.root", "data.source.root")
# Times, which are never the same.
MEASURED = ("seconds", "samples_per_second")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("lamella reproduce", description="Train again from the record, and compare.")
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help=f"where its data is now: {', '.join(MOVED)}")
    options = parser.parse_args(arguments)
    path: Path = options.run
    fields, config = read_run(path)
    there = [key for key, _ in walk(config) if key in MOVED]
    config = apply_overrides(config, fields["reads"], options.overrides, there, "is to be as it was in the run")

    from lamella.distributed import rank
    from lamella.experiment.build import build_experiment
    from lamella.experiment.session import create_run, join_run, train_run
    from lamella.runs.checkpoints import find_checkpoint, read_weights
    from lamella.runs.names import OUTPUTS

    if rank() > 0:
        return join_run()
    epochs, finished = read_epochs(path), fields["status"] == "finished"
    if not epochs:
        raise RequestError(f"{path}: it has not finished an epoch, so there is nothing to compare with")
    if not finished:
        print(f"the run is {fields['status']}: the {len(epochs)} epochs that it has are compared, and not its end")
    config = _as_it_was(fields, config)
    experiment = build_experiment(config)
    before = {name: read_weights(find_checkpoint(path, name)) for name in (("best", "last") if finished else ())}
    same = {name: fields[name] for name in ("reads", "choices")}
    make = partial(claim_directory, OUTPUTS / experiment.name, path.resolve().name)
    record = create_run(experiment, make, config, fields["overrides"], reproduces=str(path), **same)
    again = record.path
    status = train_run(experiment, record)
    if status:
        return status

    found = [*_metrics(epochs, read_epochs(again))]
    if finished and len(epochs) != fields["epochs"]:
        found.append(f"metrics.jsonl: it holds {len(epochs)} epochs of {fields['epochs']}")
    if finished:
        found += _numbers("at the end", fields["metrics"], record.fields["metrics"])
    for name, weights in before.items():
        now = read_weights(find_checkpoint(again, name))
        different = [key for key in {**weights, **now} if not _same(weights.get(key), now.get(key))]
        if different:
            found.append(f"{name}.ckpt: {len(different)} of {len(weights)} tensors, the first is {different[0]}")
    if not found:
        both = "the weights of best.ckpt and last.ckpt, and " if finished else ""
        print(f"\nreproduced: {both}every metric of {len(epochs)} epochs, bit for bit those of {path}")
        return 0
    print(f"\nNOT reproduced; what differs, the first and the last of {len(found)}:")
    print(*(f"  {printable(line)}" for line in dict.fromkeys((found[0], found[-1]))), sep="\n")
    around = map(printable, _around(path, fields, again, record.fields))
    print("and in what it ran in:", *(list(around) or ["nothing that is recorded"]), sep="\n  ")
    return 1


def _same(one: "Tensor | None", other: "Tensor | None") -> bool:
    return one is not None and other is not None and one.dtype == other.dtype and one.equal(other)


def _as_it_was(fields: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with what it left to the machine as it was on the one where the run was made."""
    device = dict(config["device"])
    if device.get("threads") is None:
        device["threads"] = fields.get("environment", {}).get("threads")
    if device.get("accelerator") == "auto" and fields["device"] == "cpu":
        device["accelerator"] = "cpu"
    trainer = dict(config["trainer"])
    # What a search has ended early ends there again.
    trainer["callbacks"] = [
        {**node, "epochs": fields["epochs"]}
        if isinstance(node, dict) and str(node.get("_target_")).endswith(".pruning.Pruning")
        else node
        for node in trainer.get("callbacks") or []
    ]
    return {**config, "device": device, "trainer": trainer}


def _metrics(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> Iterator[str]:
    for number, (one, other) in enumerate(zip(before, now, strict=False), 1):
        yield from _numbers(f"epoch {number}", one, other)


def _numbers(place: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name, value in before.items():
        if name not in MEASURED and repr(now.get(name)) != repr(value):  # as text, in which NaN is NaN
            yield f"{place}, {name}: {now.get(name)} instead of {value}"


def _around(path: Path, before: Mapping[str, Any], again: Path, now: Mapping[str, Any]) -> Iterator[str]:
    """What differs in versions, machine and code."""
    for group in ("versions", "environment", "git"):
        one, other = before.get(group) or {}, now.get(group) or {}
        for name in sorted({*one, *other}):
            if one.get(name) != other.get(name):
                yield f"{group} {name}: {other.get(name)} instead of {one.get(name)}"
    patches = [(run / "git.patch").read_bytes() if (run / "git.patch").is_file() else b"" for run in (path, again)]
    if patches[0] != patches[1]:
        yield "git.patch: other uncommitted changes"
    if before.get("inexact"):
        yield f"the run itself went on with {', '.join(map(str, before['inexact']))}"
