"""Train a network with the Lightning Trainer."""

from lamella.training.scheduler import Schedule
from lamella.training.task import NonFiniteLoss, Task

__all__ = [
    "NonFiniteLoss",
    "Schedule",
    "Task",
]
