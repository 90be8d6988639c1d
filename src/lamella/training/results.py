"""Check what the training step of a project's own task returns."""

from collections.abc import Callable, Collection, Mapping, Sequence
from inspect import signature

import torch
from torch import Tensor

from lamella.errors import RequestError
from lamella.training.objective import Objective
from lamella.training.own_module import title

TAKEN = ("lr", "grad_norm", "seconds", "samples_per_second", "step", "epoch")  # the names of other values of an epoch


def check_step(step: Callable[..., object], task: type, optimizers: Sequence[str]) -> None:
    """Raise RequestError if the step of a class of tasks does not suit the number of optimizers.

    optimizers: the names of several ones, none for a single optimizer.
    """
    taken = signature(step).parameters.get("optimizer")
    if optimizers and taken is None:
        raise RequestError(
            f"task: the config has the optimizers {', '.join(optimizers)}, and {title(task)}.step takes no argument "
            "`optimizer`;\n  write it as step(self, batch, optimizer), which is called with the name of each",
            "task",
        )
    if not optimizers and taken is not None and taken.default is taken.empty:
        raise RequestError(
            f"task: {title(task)}.step takes the name of an optimizer, and the config has a single one;\n"
            "  name those of the task in conf/optimizer/NAME.yaml, and choose it with optimizer=NAME",
            "task",
        )


def check_outputs(optimizers: Sequence[str], task: type, metrics: Collection[str]) -> None:
    """Raise RequestError if the metrics cannot be counted from the outputs of a pass over the data.

    optimizers: the names of those for which the step has given an output. task: the class of the task. metrics: the
    names of those in the config.
    """
    name = title(task)
    if len(optimizers) > 1:
        both = " and ".join(map(repr, optimizers))
        raise RequestError(
            f"task: {name}.step returns 'output' for the optimizers {both}; metrics are counted from that of one",
            "task",
        )
    if metrics and not optimizers:
        first = next(iter(metrics))
        raise RequestError(f"task: {name}.step returns no 'output', from which metrics.{first} is counted", "task")


def check_results(results: object, task: type, objective: Objective, metrics: Collection[str]) -> None:
    """Raise RequestError for results of a step that cannot be counted.

    task: its class. objective: counts its metric from an output. metrics: the names of those in the config.
    """
    name = f"{title(task)}.step"
    if not isinstance(results, Mapping) or not isinstance(results.get("loss"), Tensor):
        given = f"{type(results).__name__}; it has to return a mapping, as {{'loss': loss}}"
        if isinstance(results, Mapping):
            keys = ", ".join(map(str, results)) or "nothing"
            wrong = (
                f"'loss' is a {type(results['loss']).__name__}" if "loss" in results else "the key 'loss' is missing"
            )
            given = f"a mapping of {keys}; {wrong}, and it has to be a tensor, as {{'loss': loss}}"
        raise RequestError(f"task: {name} returns {given}", "task")
    if torch.is_grad_enabled() and not results["loss"].requires_grad:
        raise RequestError(f"task: the loss of {name} depends on no parameter that is trained", "task")
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
