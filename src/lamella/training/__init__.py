"""Train a network with the Lightning Trainer."""

from lamella.training.non_finite import NonFiniteLoss
from lamella.training.scheduler import Schedule
from lamella.training.task import Task

__all__ = [
    "NonFiniteLoss",
    "Schedule",
    "Task",
]
