"""Lamella: deep-learning experiments as layers of YAML.

Importing the package imports no torch, so that `lamella --help` answers at once.
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lamella.listing import Runs
    from lamella.model import Model

__version__ = "0.1.0"


def load(run: "str | os.PathLike[str]", checkpoint: str = "best", device: str = "cpu") -> "Model":
    """The network that a run has trained, with its preprocessing and class names: see `lamella.model.Model`."""
    from lamella.model import load

    return load(run, checkpoint, device)


def runs(directory: "str | os.PathLike[str]" = "outputs") -> "Runs":
    """The records of all runs below a directory: see `lamella.listing.Runs`."""
    from lamella.listing import runs

    return runs(directory)
