"""Lamella: deep-learning experiments as layers of YAML.

Importing the package imports no torch, so that `lamella --help` answers at once.
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lamella.experiment.model import Model
    from lamella.runs.listing import Runs


def load(run: "str | os.PathLike[str]", checkpoint: str = "best", device: str = "cpu") -> "Model":
    """Load the network of a run, with its preprocessing and class names: see `lamella.experiment.model.Model`."""
    from lamella.experiment.model import load

    return load(run, checkpoint, device)


def runs(directory: "str | os.PathLike[str]" = "outputs") -> "Runs":
    """The records of all runs below a directory: see `lamella.runs.Runs`."""
    from lamella.runs.listing import runs

    return runs(directory)


def __getattr__(name: str) -> str:
    if name == "__version__":  # read when it is asked for, because importing importlib.metadata takes time
        from importlib.metadata import version

        return version("lamella")
    raise AttributeError(f"module 'lamella' has no attribute {name!r}")
