"""Read, write and list run directories."""

import os
import sys
from types import ModuleType

from lamella.runs.listing import Record, Runs, runs

__all__ = [
    "Record",
    "Runs",
    "runs",
]


class _CallablePackage(ModuleType):
    """Makes `lamella.runs()` work: importing this package replaces the function of the same name in `lamella`."""

    def __call__(self, directory: str | os.PathLike[str] = "outputs", filter: str | None = None) -> Runs:
        return runs(directory, filter)


sys.modules[__name__].__class__ = _CallablePackage
