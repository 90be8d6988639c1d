"""lamella resume RUN [KEY=VALUE…]: finish what was interrupted, a run or a sweep, in place.

lamella resume outputs/default/defaults
lamella resume outputs/default/defaults trainer.max_epochs=20
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lamella import guard, processes, sweeps
from lamella.conf import walk
from lamella.errors import RequestError
from lamella.record import Run
from lamella.recorded import change
from lamella.records import read

if TYPE_CHECKING:
    from lamella.build import Experiment
    from lamella.data import Data

# What may be another than it was: how long, where, and what makes no difference to the result.
FREE = (
    "trainer.max_epochs",
    "trainer.checkpoint_every",
    "trainer.chunk",
    "device.accelerator",
    "device.threads",
    "device.graph",
    "data.root",
    "data.source.root",
    "data.in_memory",
    "data.cache",
    "data.num_workers",
)
WHY = "cannot change while a run goes on: the record of the run counts, and conf/ is not read again"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("lamella resume", description="Finish what was interrupted, in place.")
    parser.add_argument("run", metavar="RUN", type=Path, help="the directory of a run or of a sweep")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help=f"one of {', '.join(FREE)}")
    options = parser.parse_args(arguments)
    return go_on(options.run, options.overrides)


def go_on(path: Path, overrides: Sequence[str]) -> int:
    """Finish the run or the sweep in `path`, as it was recorded; returns the exit status. Raises RequestError."""
    if not (path / "run.json").exists() and sweeps.is_sweep(path):
        return _sweep(path, overrides)
    if os.environ.get("LOCAL_RANK", "0") != "0":  # as fit.rank has it, which would import torch for a finished run too
        from lamella.attempt import take_part

        return take_part()
    found = opened(path, overrides)
    if found is None:
        return 0
    from lamella.attempt import attempt

    return attempt(*found)


def opened(path: Path, overrides: Sequence[str] = (), data: "Data | None" = None) -> "tuple[Experiment, Run] | None":
    """The run in `path`, ready to be trained; None where it is finished, which is said.

    data: what was read already. Raises RequestError.
    """
    planned = None if (path / "run.json").exists() else sweeps.planned(path)
    if planned:
        return _begun(path, planned, overrides, data)
    fields, config = read(path)
    there = {key for key, _ in walk(config)}
    changed = change(config, fields["reads"], overrides, [key for key in FREE if key in there], WHY)
    longer = changed["trainer"].get("max_epochs") != config["trainer"].get("max_epochs")
    finished = fields["status"] == "finished" and not longer
    if finished and not overrides:
        print(_finished(path, fields))
        return None

    from lamella import build

    if longer:
        _check_length(fields, config, changed["trainer"].get("max_epochs"))
    experiment = build.experiment(changed, data=data)
    if finished:
        print(_finished(path, fields))
        return None
    begun = any((path / "checkpoints").glob("[!.]*.ckpt"))
    if not begun and (fields["epochs"] > 1 or fields["status"] == "finished"):
        raise RequestError(f"{path}: its checkpoints are gone, it cannot go on; `lamella train` begins a new run")
    record = Run.reopen(path)
    if not begun:
        print(f"{path} has no checkpoint yet: from the start")
    if overrides:
        # In this order: killed in between, it is a run that goes on.
        keys = [text.partition("=")[0] for text in overrides]
        kept = [text for text in fields["overrides"] if text.partition("=")[0] not in keys]
        record.update(status="running", overrides=[*kept, *overrides])
        record.configure(yaml.safe_dump(changed, sort_keys=False, allow_unicode=True))
    return experiment, record


def _sweep(path: Path, overrides: Sequence[str]) -> int:
    """Finish a whole sweep, as it was planned."""
    if overrides:
        raise RequestError(f"{overrides[0]}: a sweep goes on as it was planned; give the directory of one member")
    fields = sweeps.Sweep(path).fields
    if guard.local(fields["launcher"]):
        processes.warm_up()
    from lamella import search, sweeping

    if "search" in fields:
        return search.resume(path)
    return sweeping.resume(path)


def _begun(
    path: Path, member: sweeps.Member, overrides: Sequence[str], data: "Data | None"
) -> "tuple[Experiment, Run]":
    """The member of a sweep that is planned for `path`."""
    if overrides:
        raise RequestError(f"{overrides[0]}: {path} is not begun yet, and its sweep has planned it; leave this out")
    from lamella import build
    from lamella.attempt import begin

    def make() -> Path:
        if path.is_symlink():
            raise RequestError(f"{path} is a link; a run is made where its sweep is")
        path.mkdir(exist_ok=True)
        return path

    experiment = build.experiment(member.config, data=data)
    own = {"reads": member.reads, "choices": member.choices}
    return experiment, begin(experiment, make, member.config, member.overrides, **own)


def _finished(path: Path, fields: dict[str, Any]) -> str:
    best, epochs = fields["best_epoch"], fields["epochs"]
    return f"{path} is finished: {epochs} epochs, the best one {best}; trainer.max_epochs=… trains on"


def _check_length(fields: dict[str, Any], config: dict[str, Any], length: Any) -> None:
    """Raise RequestError where the run cannot be made `length` epochs long."""
    from lamella.schedules import LENGTHS

    if not isinstance(length, int):
        raise RequestError(
            f"trainer.max_epochs is {length!r}; a run goes on to a number of epochs", "trainer.max_epochs"
        )
    if length < fields["epochs"]:
        raise RequestError(
            f"trainer.max_epochs is {length}, but {fields['epochs']} epochs are over", "trainer.max_epochs"
        )
    whole = [name for name in LENGTHS if name in config["scheduler"] and config["scheduler"][name] is None]
    if whole:
        was = config["trainer"].get("max_epochs")
        raise RequestError(
            f"trainer.max_epochs cannot change: scheduler.{whole[0]} is null, so that the learning rate was laid out\n"
            f"  for {was} epochs, and other ones would have taken other steps from the start; train anew",
            "trainer.max_epochs",
        )
