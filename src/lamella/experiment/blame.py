"""Name the config key that is to blame for an error in the trial of a run."""

import re
import traceback
from collections.abc import Sequence

import pytorch_lightning as pl
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lamella.config.values import Config
from lamella.errors import RequestError, first_line, own_frames
from lamella.experiment.experiment import Experiment
from lamella.training.device import is_out_of_memory
from lamella.training.task import Task


def refusal(
    error: Exception, experiment: Experiment, options: Config, stage: str, sizes: Sequence[int]
) -> RequestError:
    """Return the error for the request, which names the key that is to blame.

    options: the config group `trainer`. stage: training, scheduler, validation or test. sizes: of its batches so far.
    """
    message, place = first_line(error), own_frames(error)
    key, culprit = _culprit(error, experiment)
    if stacks := _missing_stack(error, experiment):
        return RequestError(f"network: {stacks}{place}", "network")
    if not sizes and key != "task":  # the Trainer has refused an argument before the first batch
        named = [name for name in re.findall(r"`(?:Trainer\()?(\w+)", message) if name in options]
        key = f"trainer.{named[0]}" if named else "trainer" if experiment.kind.is_task else "task"
        value = f" is {options[named[0]]}" if named else ""
        return RequestError(f"{key}{value}: {message}{place}", key)
    if not sizes:
        return RequestError(f"{key}: {culprit} fails: {message}{place}", key)
    if stage == "scheduler":
        return RequestError(f"{key}: {culprit} cannot take all the steps of the run: {message}{place}", key)
    size, largest = sizes[-1], sizes[0]
    failure = f"{culprit} fails on a {stage} batch of {size} sample{'s' * (size != 1)}: {message}"
    if is_out_of_memory(error):
        failure, smaller = f"out of memory on {experiment.device.accelerator}: {failure}", False
    else:
        smaller = stage == "training" and size < largest
        if not smaller and (stage != "training" or size > 1):
            return RequestError(f"{key}: {failure}{place}", key)
    hint = ";\n  with another size or data.drop_last=true there is no such batch" if smaller else ""
    key = "data.batch_size"
    return RequestError(f"{key} is {experiment.data.batch_size}: {failure}{hint}{place}", key)


def _culprit(error: Exception, experiment: Experiment) -> tuple[str, str]:
    """Return the config key of what has raised an error, and its name."""
    module = experiment.module
    network = module.network if isinstance(module, Task) else module
    loss = module.loss if isinstance(module, Task) else None
    names = {id(part): name for name, part in network.named_modules()}
    found = "trainer", "the Trainer"
    for frame, _ in traceback.walk_tb(error.__traceback__):
        owner, function = frame.f_locals.get("self"), frame.f_code.co_name
        if function == "backward":
            found = "network", "the backward pass"
        elif owner is module:
            if _is_own(module, function):
                found = "task", f"{type(module).__name__}.{function}"
        elif owner is loss and loss is not None:
            found = "loss", type(owner).__name__
        elif isinstance(owner, Optimizer):
            found = "optimizer", type(owner).__name__
        elif isinstance(owner, LRScheduler):
            found = "scheduler", type(owner).__name__
        elif isinstance(owner, nn.Module) and id(owner) in names:
            name = names[id(owner)]
            found = "network", f"{type(owner).__name__}{f' at {name}' if name else ''}"
    key, name = found
    return key if experiment.kind.takes(key) or key == "trainer" else "task", name


def _missing_stack(error: Exception, experiment: Experiment) -> str:
    """Return what is wrong where a step has asked the network for a stack that it does not have, otherwise ""."""
    network = experiment.module.network if isinstance(experiment.module, Task) else None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if network is not None and frame.f_locals.get("self") is network and frame.f_code.co_name == "__getitem__":
            asked = next(value for name, value in frame.f_locals.items() if name != "self")
            has = f"the stacks {', '.join(network)}" if isinstance(network, nn.ModuleDict) else "no named stacks"
            return f"it has {has}, and the step of the task takes the stack {asked!r}"
    return ""


def _is_own(module: pl.LightningModule, function: str) -> bool:
    """Return whether a method of a module was written by the project."""
    base = Task if isinstance(module, Task) else pl.LightningModule
    return getattr(type(module), function, None) is not getattr(base, function, None)
