"""Deep-learning experiments that are described in layers of YAML files.

Importing the package does not import torch, so that `lamella --help` answers at once.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lamella.startup.lazy_imports import import_lazily

if TYPE_CHECKING:
    __version__: str
    from lamella.experiment.model import Model as Model
    from lamella.runs.listing import Record, Runs
    from lamella.training.task import Task as Task

__all__ = ["Task", "load", "runs", "sweep", "train"]

import_lazily()


def train(overrides: Sequence[str] = ()) -> "Record":
    """Train one run in this process, as `lamella train` does, and return it: see `lamella.runs.Record`.

    overrides: as on the command line, ["network=cnn", "trainer.max_epochs=3"]. The files in `conf/` in the working
    directory count. Raises RequestError for a wrong request, before anything is trained; RunFailed for a run that
    fails; and KeyboardInterrupt after Ctrl-C, when the run is saved so that `lamella resume` goes on with it.
    """
    from lamella.commands.from_python import train_in_process

    return train_in_process(overrides)


def sweep(overrides: Sequence[str]) -> "Runs":
    """Train a run for each combination of values, as `lamella train -m` does, and return the runs, the best one first.

    overrides: as on the command line, ["optimizer.lr=1e-2,1e-3", "seed=0,1"]. Raises as `train` does; runs that have
    finished are kept, and the same call trains the others.
    """
    from lamella.commands.from_python import sweep_in_process

    return sweep_in_process(overrides)


def load(run: "str | os.PathLike[str]", checkpoint: str = "best", device: str = "cpu") -> "Model":
    """Return the network of a run with its preprocessing and class names: see `lamella.experiment.model.Model`.

    run: the run directory. checkpoint: "best" or "last". device: such as "cpu" or "cuda". Raises RequestError.
    """
    from lamella.experiment.model import load

    return load(run, checkpoint, device)


def runs(directory: "str | os.PathLike[str]" = "outputs", filter: str | None = None) -> "Runs":
    """Return the records of all runs below a directory, or of those that meet a condition: see `lamella.runs.Runs`."""
    from lamella.runs.listing import runs

    return runs(directory, filter)


def __getattr__(name: str) -> object:
    if name == "Task":  # imported when it is asked for, because it imports torch
        from lamella.training.task import Task

        return Task
    if name == "__version__":  # read when it is asked for, because importing importlib.metadata takes time
        from importlib.metadata import version

        return version("lamella")
    raise AttributeError(f"module 'lamella' has no attribute {name!r}")
