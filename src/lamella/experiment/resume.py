"""Resume runs from their directories, and start those that a sweep has planned.

torch is imported only once a run is to be trained, so that a wrong request and a finished run are answered at once.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lamella.config.overrides import apply_overrides
from lamella.config.values import Config, key_of, walk
from lamella.console import print
from lamella.distributed import rank
from lamella.errors import RequestError
from lamella.runs.files import LAST
from lamella.runs.identity import CHANGEABLE_KEYS
from lamella.runs.reader import read_run
from lamella.runs.schema import RunRecord
from lamella.runs.sweep_directory import Member, planned_member
from lamella.runs.trash import cleaned_hint
from lamella.runs.writer import RunWriter
from lamella.tracking.trackers import check_trackers

if TYPE_CHECKING:
    from lamella.data import RunData
    from lamella.experiment.experiment import Experiment

# What `rehearsal_key` returns for the runs that this process has tried. The runs of a fused group have one trial.
TRIED: set[str] = set()
REFUSAL = "cannot change when a run is resumed, because the run keeps its recorded config"


def resume_run(path: Path, overrides: Sequence[str] = ()) -> int:
    """Train the run in `path` to its end and return the exit status.

    overrides: new values of keys in CHANGEABLE_KEYS. Raises RequestError where the run cannot be resumed.
    """
    if rank() > 0:
        from lamella.experiment.session import join_run

        return join_run()
    run = open_run(path, overrides)
    if run is None:
        return 0
    from lamella.experiment.session import train_run

    return train_run(*run)


def open_run(
    path: Path, overrides: Sequence[str] = (), data: "RunData | None" = None
) -> "tuple[Experiment, RunWriter] | None":
    """Return the experiment and the writer of the run in `path`, or print that it is finished and return None.

    overrides: new values of keys in CHANGEABLE_KEYS. data: samples that have been read for another run, None to read
    them. Raises RequestError where the run cannot be resumed.
    """
    if not (path / "run.json").exists() and (member := planned_member(path)):
        return _start_member(path, member, overrides, data)
    fields, config = read_run(path)
    existing = {key for key, _ in walk(config)}
    changed = apply_overrides(config, fields, overrides, [key for key in CHANGEABLE_KEYS if key in existing], REFUSAL)
    epochs = changed["trainer"].get("max_epochs")
    longer = epochs != config["trainer"].get("max_epochs")
    more_patience = _check_patience(config["trainer"].get("early_stopping"), changed["trainer"].get("early_stopping"))
    finished = fields["status"] == "finished" and not longer and not (more_patience and fields.get("stopped"))
    if finished and not overrides:
        _print_finished(path, fields, config)
        return None

    from lamella.experiment.build import prepare_experiment
    from lamella.experiment.model import read_encoder

    if longer:
        _check_length(fields, config, epochs)
    check_trackers(changed.get("tracking") or {})
    # What was learned from the training samples is not computed again: other threads may round it otherwise.
    experiment = prepare_experiment(changed, data=data, encoder=read_encoder(path))
    if finished:
        _print_finished(path, fields, config)
        return None
    if experiment.weights and "weights" in fields and not _has_checkpoint(path):  # they are read once more
        experiment.weights.check(fields["weights"])
    return experiment, _reopen(path, fields, changed, overrides)


def _start_member(
    path: Path, member: Member, overrides: Sequence[str], data: "RunData | None"
) -> "tuple[Experiment, RunWriter]":
    """Create the run that a sweep has planned for `path`. Raises RequestError."""
    if overrides:
        raise RequestError(
            f"{overrides[0]}: {path} has not started yet, and its sweep has planned it; leave this override out"
        )
    from lamella.experiment.build import prepare_experiment
    from lamella.experiment.memory_format import with_memory_format
    from lamella.experiment.rehearsal import rehearsal_key, rehearse
    from lamella.experiment.session import create_run

    def make_directory() -> Path:
        if path.is_symlink():
            raise RequestError(f"{path} is a symbolic link; a job's run must be a directory of its sweep")
        path.mkdir(exist_ok=True)
        return path

    experiment = prepare_experiment(member.config, data=data)
    # On the CPU, the sweep has tried it before it started.
    if experiment.device.accelerator != "cpu" and (key := rehearsal_key(member.config)) not in TRIED:
        rehearse(experiment, member.config)
        TRIED.add(key)
    experiment, config = with_memory_format(experiment, member.config)
    writer = create_run(
        experiment, make_directory, config, member.overrides, reads=member.reads, choices=member.choices
    )
    return experiment, writer


def _reopen(path: Path, fields: RunRecord, config: Config, overrides: Sequence[str]) -> RunWriter:
    """Open a run for writing and record the overrides. Raises RequestError where its checkpoints are gone."""
    has_checkpoint = _has_checkpoint(path)
    hint = "" if (path / "checkpoints" / LAST).exists() else cleaned_hint(path)
    if not has_checkpoint and (fields["epochs"] > 1 or fields["status"] == "finished" or hint):
        raise RequestError(f"{path}: its checkpoints are gone, it cannot go on; `lamella train` begins a new run{hint}")
    writer = RunWriter.reopen(path)
    if not has_checkpoint:
        print(f"{path} has no checkpoint yet: from the start")
    elif not (path / "checkpoints" / LAST).exists():
        print(f"{path} has no {LAST} any more: it goes on from an earlier checkpoint{hint}")
    new = [text for text in overrides if text not in fields["overrides"]]
    if new:
        # The record is written first: if the process is killed between the two, the run is one that can be resumed.
        keys = list(map(key_of, new))
        earlier = [text for text in fields["overrides"] if key_of(text) not in keys]
        writer.update(status="running", overrides=[*earlier, *new])
        writer.configure(config)
    return writer


def _has_checkpoint(path: Path) -> bool:
    """Return whether a run has saved a checkpoint from which it can go on."""
    return any((path / "checkpoints").glob("[!.]*.ckpt"))


def _print_finished(path: Path, fields: RunRecord, config: Config) -> None:
    best, epochs = fields["best_epoch"], fields["epochs"]
    key = "early_stopping" if fields.get("stopped") and config["trainer"].get("early_stopping") else "max_epochs"
    print(f"{path} is finished: {epochs} epochs, the best one {best}; trainer.{key}=… trains on")


def _check_patience(before: int | None, now: int | None) -> bool:
    """Return whether a run gets more patience. Raises RequestError where it would have ended earlier with `now`.

    before, now: trainer.early_stopping in the record, and with which the run is resumed.
    """
    if now == before:
        return False
    if before is None or (isinstance(now, int) and now < before):
        value = "null" if before is None else before
        raise RequestError(
            f"trainer.early_stopping is {now}, and was {value} so far; a resumed run takes a larger number or null",
            "trainer.early_stopping",
        )
    return True


def _check_length(fields: RunRecord, config: Config, epochs: object) -> None:
    """Raise RequestError where the run cannot be made `epochs` epochs long."""
    from lamella.training.scheduler import LENGTHS

    if not isinstance(epochs, int):
        raise RequestError(
            f"trainer.max_epochs is {epochs!r}; a run goes on to a number of epochs", "trainer.max_epochs"
        )
    if epochs < fields["epochs"]:
        raise RequestError(
            f"trainer.max_epochs is {epochs}, but {fields['epochs']} epochs are over", "trainer.max_epochs"
        )
    unset = [name for name in LENGTHS if name in config["scheduler"] and config["scheduler"][name] is None]
    if unset:
        raise RequestError(
            f"trainer.max_epochs cannot change: scheduler.{unset[0]} is null, so the learning rates depend\n"
            "  on the number of epochs; train a new run",
            "trainer.max_epochs",
        )
