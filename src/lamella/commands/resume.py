"""lamella resume RUN [KEY=VALUE…]: finish what was interrupted, in place.

lamella resume outputs/default/defaults
lamella resume outputs/default/defaults trainer.max_epochs=20
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from lamella.errors import RequestError, nearest
from lamella.record import Run, read

# What may be another than it was: how long, where, and what makes no difference to the result.
FREE = (
    "trainer.max_epochs",
    "trainer.checkpoint_every",
    "device.accelerator",
    "device.threads",
    "data.source.root",
    "data.in_memory",
    "data.num_workers",
)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("lamella resume", description="Finish what was interrupted, in place.")
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help=f"one of {', '.join(FREE)}")
    options = parser.parse_args(arguments)
    path: Path = options.run
    fields, config = read(path)
    changed = override(config, options.overrides)
    if fields["status"] == "finished" and changed["trainer"].get("max_epochs") == config["trainer"].get("max_epochs"):
        best, epochs = fields["best_epoch"], fields["epochs"]
        print(f"{path} is finished: {epochs} epochs, the best one {best}; trainer.max_epochs=… trains on")
        return 0

    from lamella import build
    from lamella.archive import newest
    from lamella.attempt import attempt, environment, take_part
    from lamella.fit import rank

    sys.path.insert(0, os.getcwd())  # the project's own modules
    _check_length(fields, config, changed)
    experiment = build.experiment(changed)
    if rank() > 0:
        return take_part(experiment)
    if fields["epochs"] > 1 and newest(path / "checkpoints")[0] is None:
        raise RequestError(
            f"{path}: its checkpoints are gone, so that it cannot go on; `lamella train` begins a new run"
        )
    record = Run.reopen(path)
    if options.overrides:
        record.configure(yaml.safe_dump(changed, sort_keys=False, allow_unicode=True))
        record.update(overrides=[*fields["overrides"], *options.overrides])
    before = fields.get("environment", {})
    pairs = {name: (now, before.get(name, now)) for name, now in environment(experiment).items()}
    other = [f"{name} {now} instead of {then}" for name, (now, then) in pairs.items() if now != then]
    if other:
        print(f"with {', '.join(other)}: the result will not be, to the bit, that of a run without interruption")
    return attempt(experiment, record)


def override(config: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`config` with `overrides`, each KEY=VALUE with a key that may change. Raises RequestError."""
    for text in overrides:
        key, equals, _ = text.partition("=")
        if not equals:
            raise RequestError(f"{text}: an override is KEY=VALUE")
        if key not in FREE:
            raise RequestError(
                f"{key} cannot change while a run goes on: the record of the run counts, and conf/ is not read again;\n"
                f"  {nearest(key, FREE)}",
                key,
            )
    changed = OmegaConf.to_container(OmegaConf.merge(config, OmegaConf.from_dotlist(list(overrides))))
    assert isinstance(changed, dict)
    return {str(key): value for key, value in changed.items()}


def _check_length(fields: dict[str, Any], config: dict[str, Any], changed: dict[str, Any]) -> None:
    """Raise RequestError where the run cannot be made as long as it is to be."""
    from lamella.schedules import LENGTHS

    was, length = config["trainer"].get("max_epochs"), changed["trainer"].get("max_epochs")
    if length == was:
        return
    if isinstance(length, int) and length < fields["epochs"]:
        raise RequestError(
            f"trainer.max_epochs is {length}, but {fields['epochs']} epochs are over", "trainer.max_epochs"
        )
    whole = [name for name in LENGTHS if name in config["scheduler"] and config["scheduler"][name] is None]
    if whole:
        raise RequestError(
            f"trainer.max_epochs cannot change: scheduler.{whole[0]} is null, so that the learning rate was laid out\n"
            f"  for {was} epochs, and other ones would have taken other steps from the start; train anew",
            "trainer.max_epochs",
        )
