"""Check what the training step of a project's own task returns."""

from collections.abc import Collection, Mapping

from torch import Tensor

from lamella.errors import RequestError
from lamella.training.objective import Objective

TAKEN = ("lr", "grad_norm", "seconds", "samples_per_second", "step", "epoch")  # the names of other values of an epoch


def check_results(results: object, name: str, objective: Objective, metrics: Collection[str]) -> None:
    """Raise RequestError for results of a step that cannot be counted.

    name: of the task. objective: counts its metric from an output. metrics: the names of those in the config.
    """
    name = f"{name}.step"
    if not isinstance(results, Mapping) or not isinstance(results.get("loss"), Tensor):
        given = type(results).__name__
        if isinstance(results, Mapping):
            given = f"a mapping of {', '.join(map(str, results)) or 'nothing'}"
        raise RequestError(f"task: {name} returns {given}; it has to return a mapping, as {{'loss': loss}}", "task")
    if metrics and "output" not in results:
        first = next(iter(metrics))
        raise RequestError(f"task: {name} returns no 'output', from which metrics.{first} is counted", "task")
    counted = [objective.metric, *metrics] if "output" in results else []
    for key, value in results.items():
        if key == "output" and isinstance(value, Tensor):
            continue
        if key in counted:
            raise RequestError(f"task: {name} returns {key!r}, which is counted from 'output'; leave it out", "task")
        if key in TAKEN or not str(key).isidentifier():
            raise RequestError(f"task: {name} returns {key!r}, which cannot name a metric; choose another name", "task")
        if not isinstance(value, Tensor) or value.dim():
            shape = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            takes = "the output of the network" if key == "output" else "a tensor of one number, the mean of the batch"
            raise RequestError(f"task: {name} returns {key!r} {shape}; it takes {takes}", "task")
