"""Read `trainer.checkpoint_every`: how often a run is saved within an epoch."""

import math
import re
from dataclasses import dataclass

from lamella.errors import RequestError

INTERVAL = r"(\d+(?:\.\d+)?) *(steps?|min|minutes?)"


@dataclass(frozen=True)
class CheckpointInterval:
    """Says how often a run is saved within an epoch: after so many optimizer steps, or so many seconds.

    The steps of several optimizers are counted together.
    """

    steps: float = math.inf
    seconds: float = math.inf


def checkpoint_interval(value: object) -> CheckpointInterval:
    """Return the interval that `trainer.checkpoint_every` describes: a number of steps, of minutes, or None."""
    if value is None:
        return CheckpointInterval()
    match = re.fullmatch(INTERVAL, str(value))
    number, in_steps = (float(match[1]), match[2].startswith("step")) if match else (0.0, False)
    if not number or (in_steps and number % 1):
        raise RequestError(
            f"trainer.checkpoint_every is {value!r}; it takes a number with its unit, as 500steps or 5min, or null",
            "trainer.checkpoint_every",
        )
    return CheckpointInterval(steps=number) if in_steps else CheckpointInterval(seconds=60 * number)
