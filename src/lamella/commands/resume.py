"""lamella resume RUN [KEY=VALUE…]: finish what was interrupted, a run or a sweep, in place.

lamella resume outputs/default/defaults
lamella resume outputs/default/defaults trainer.max_epochs=20
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from lamella import guard, processes, sweeps
from lamella.conf import walk
from lamella.errors import RequestError
from lamella.record import Run
from lamella.recorded import change
from lamella.records import read

# What may be another than it was: how long, where, and what makes no difference to the result.
FREE = (
    "trainer.max_epochs",
    "trainer.checkpoint_every",
    "trainer.chunk",
    "device.accelerator",
    "device.threads",
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
    """Finish the run in `path`, as it was recorded; returns the exit status. Raises RequestError."""
    if not (path / "run.json").exists():
        if sweeps.is_sweep(path):
            return _sweep(path, overrides)
        if planned := sweeps.planned(path):
            return _begin(path, planned, overrides)
    fields, config = read(path)
    there = {key for key, _ in walk(config)}
    changed = change(config, fields["reads"], overrides, [key for key in FREE if key in there], WHY)
    longer = changed["trainer"].get("max_epochs") != config["trainer"].get("max_epochs")
    finished = fields["status"] == "finished" and not longer
    if finished and not overrides:
        print(_finished(path, fields))
        return 0

    from lamella import build
    from lamella.attempt import attempt, take_part
    from lamella.fit import rank

    if rank() > 0:
        return take_part()
    if longer:
        _check_length(fields, config, changed["trainer"].get("max_epochs"))
    experiment = build.experiment(changed)
    if finished:
        print(_finished(path, fields))
        return 0
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
    return attempt(experiment, record)


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


def _begin(path: Path, member: sweeps.Member, overrides: Sequence[str]) -> int:
    """Begin the member of a sweep that is planned for `path`."""
    if overrides:
        raise RequestError(f"{overrides[0]}: {path} is not begun yet, and its sweep has planned it; leave this out")
    from lamella import build
    from lamella.attempt import attempt, begin, take_part
    from lamella.fit import rank

    if rank() > 0:
        return take_part()

    def make() -> Path:
        if path.is_symlink():
            raise RequestError(f"{path} is a link; a run is made where its sweep is")
        path.mkdir(exist_ok=True)
        return path

    experiment = build.experiment(member.config)
    own = {"reads": member.reads, "choices": member.choices}
    return attempt(experiment, begin(experiment, make, member.config, member.overrides, **own))


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
