"""Check what the training step of a project's own task returns."""

from collections.abc import Mapping

from torch import Tensor

from lamella.errors import RequestError

TAKEN = ("lr", "grad_norm", "seconds", "samples_per_second", "step", "epoch")  # the names of other values of an epoch


def check_results(results: object, name: str) -> None:
    """Raise RequestError for results of a step that cannot be counted. name: of the step."""
    if not isinstance(results, Mapping) or not isinstance(results.get("loss"), Tensor):
        given = type(results).__name__
        if isinstance(results, Mapping):
            given = f"a mapping of {', '.join(map(str, results)) or 'nothing'}"
        raise RequestError(f"task: {name} returns {given}; it returns a mapping, as {{'loss': loss}}", "task")
    for key, value in results.items():
        if key == "output":
            continue
        if key in TAKEN or not str(key).isidentifier():
            raise RequestError(f"task: {name} returns {key!r}, which cannot name a metric; choose another name", "task")
        if not isinstance(value, Tensor) or value.dim():
            shape = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise RequestError(
                f"task: {name} returns {key!r} {shape}; it takes a tensor of one number, the mean of the batch", "task"
            )
