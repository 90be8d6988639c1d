"""Runs that are resumed from their directories."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lamella.config.overrides import apply_overrides
from lamella.config.values import walk
from lamella.distributed import rank
from lamella.errors import RequestError
from lamella.runs.reader import read_run
from lamella.runs.sweep_directory import Member, planned_member
from lamella.runs.writer import RunWriter

if TYPE_CHECKING:
    from lamella.data import Data
    from lamella.experiment.experiment import Experiment

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


def resume_run(path: Path, overrides: Sequence[str] = ()) -> int:
    """Train the run in `path` to its end, as it was recorded, and return the exit status. Raises RequestError."""
    if rank() > 0:
        from lamella.experiment.session import join_run

        return join_run()
    found = open_run(path, overrides)
    if found is None:
        return 0
    from lamella.experiment.session import train_run

    return train_run(*found)


def open_run(
    path: Path, overrides: Sequence[str] = (), data: "Data | None" = None
) -> "tuple[Experiment, RunWriter] | None":
    """The run in `path`, ready to be trained; None where it is finished, which is said.

    data: what was read already. Raises RequestError.
    """
    planned = None if (path / "run.json").exists() else planned_member(path)
    if planned:
        return _begun(path, planned, overrides, data)
    fields, config = read_run(path)
    there = {key for key, _ in walk(config)}
    changed = apply_overrides(config, fields["reads"], overrides, [key for key in FREE if key in there], WHY)
    longer = changed["trainer"].get("max_epochs") != config["trainer"].get("max_epochs")
    finished = fields["status"] == "finished" and not longer
    if finished and not overrides:
        print(_finished(path, fields))
        return None

    from lamella.experiment.build import build_experiment

    if longer:
        _check_length(fields, config, changed["trainer"].get("max_epochs"))
    experiment = build_experiment(changed, data=data)
    if finished:
        print(_finished(path, fields))
        return None
    begun = any((path / "checkpoints").glob("[!.]*.ckpt"))
    if not begun and (fields["epochs"] > 1 or fields["status"] == "finished"):
        raise RequestError(f"{path}: its checkpoints are gone, it cannot go on; `lamella train` begins a new run")
    record = RunWriter.reopen(path)
    if not begun:
        print(f"{path} has no checkpoint yet: from the start")
    if overrides:
        # In this order: killed in between, it is a run that goes on.
        keys = [text.partition("=")[0] for text in overrides]
        kept = [text for text in fields["overrides"] if text.partition("=")[0] not in keys]
        record.update(status="running", overrides=[*kept, *overrides])
        record.configure(yaml.safe_dump(changed, sort_keys=False, allow_unicode=True))
    return experiment, record


def _begun(path: Path, member: Member, overrides: Sequence[str], data: "Data | None") -> "tuple[Experiment, RunWriter]":
    """The member of a sweep that is planned for `path`."""
    if overrides:
        raise RequestError(f"{overrides[0]}: {path} is not begun yet, and its sweep has planned it; leave this out")
    from lamella.experiment.build import build_experiment
    from lamella.experiment.session import create_run

    def make() -> Path:
        if path.is_symlink():
            raise RequestError(f"{path} is a link; a run is made where its sweep is")
        path.mkdir(exist_ok=True)
        return path

    experiment = build_experiment(member.config, data=data)
    own = {"reads": member.reads, "choices": member.choices}
    return experiment, create_run(experiment, make, member.config, member.overrides, **own)


def _finished(path: Path, fields: dict[str, Any]) -> str:
    best, epochs = fields["best_epoch"], fields["epochs"]
    return f"{path} is finished: {epochs} epochs, the best one {best}; trainer.max_epochs=… trains on"


def _check_length(fields: dict[str, Any], config: dict[str, Any], length: Any) -> None:
    """Raise RequestError where the run cannot be made `length` epochs long."""
    from lamella.training.scheduler import LENGTHS

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
