"""Read, write and list run directories."""

from lamella.runs.listing import Record, Runs, runs

__all__ = [
    "Record",
    "Runs",
    "runs",
]
