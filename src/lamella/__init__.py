"""Deep-learning experiments that are described in layers of YAML files.

Importing the package does not import torch, so that `lamella --help` answers at once.
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str
    from lamella.experiment.model import Model
    from lamella.runs.listing import Runs
    from lamella.training.task import Task as Task


def load(run: "str | os.PathLike[str]", checkpoint: str = "best", device: str = "cpu") -> "Model":
    """Return the network of a run with its preprocessing and class names: see `lamella.experiment.model.Model`.

    run: the run directory. checkpoint: "best" or "last". device: such as "cpu" or "cuda". Raises RequestError.
    """
    from lamella.experiment.model import load

    return load(run, checkpoint, device)


def runs(directory: "str | os.PathLike[str]" = "outputs") -> "Runs":
    """Return the records of all runs below a directory: see `lamella.runs.Runs`."""
    from lamella.runs.listing import runs

    return runs(directory)


def __getattr__(name: str) -> object:
    if name == "Task":  # imported when it is asked for, because it imports torch
        from lamella.training.task import Task

        return Task
    if name == "__version__":  # read when it is asked for, because importing importlib.metadata takes time
        from importlib.metadata import version

        return version("lamella")
    raise AttributeError(f"module 'lamella' has no attribute {name!r}")
