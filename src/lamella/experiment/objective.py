"""Find what the network of a run predicts, and try the loss on zeros."""

import copy

import torch
from torch import nn

from lamella.data import OwnData, RunData
from lamella.data.samples import served
from lamella.data.summary import counted
from lamella.errors import RequestError, first_line, own_frames
from lamella.network.plan import Plan
from lamella.training.objective import Objective


def build_objective(
    plan: Plan | None, loss: nn.Module, data: RunData, class_dim: object, has_own_step: bool, recorded: bool
) -> Objective:
    """Return the objective of a run, after a run of the loss on zeros. Raises RequestError.

    plan: of the network, None where the task has another one. class_dim: as in `Objective.of`. has_own_step: whether
    the task may compare something else than the output of the network. recorded: whether the run was begun earlier,
    perhaps with a loss that gives a tensor of one number.
    """
    if plan is None:
        return Objective(loss, "other")
    if plan.parts and not has_own_step:
        raise RequestError(
            f"network: it has {len(plan.parts)} named stacks, {', '.join(plan.parts)}, and the task lamella.Task "
            "takes one; write one list `layers`,\n  or a task of your own, whose step runs the stacks",
            "network",
        )
    if plan.parts:
        return Objective(loss, "other")
    last = plan.trace[-1]
    ending = f";\n  it ends with {last.layer} at {last.place}"
    if last.layer == "Linear" and len(plan.output) == data.targets[0].dim():
        ending += "; make that Linear: ${data.num_classes}"
    else:
        ending += f", which takes {last.input}; end it with Flatten and Linear: ${{data.num_classes}}"
    ending *= data.has_classes
    try:
        sampled = isinstance(data, OwnData)
        objective = Objective.of(loss, data.targets, plan.output, data.num_classes, ending, class_dim, sampled)
    except RequestError:
        if class_dim is None and has_own_step:
            return Objective(loss, "other")
        raise
    if data.augment and data.augment.mixes:
        objective.check_mixing(data.augment.mixes[0].name)
    if data.augment and data.augment.fills and data.has_masks and objective.ignored != data.ignored:
        raise RequestError(
            f"loss: {type(loss).__name__} takes every target for a class, and data.augment fills masks with "
            f"{data.ignored} (data.ignored); take loss=cross_entropy, which leaves it out",
            "loss",
        )
    weight = getattr(loss, "weight", None)
    if objective.kind == "classes" and isinstance(weight, torch.Tensor) and weight.shape != (data.num_classes,):
        numbers = counted(weight.numel(), "number", "numbers")
        raise RequestError(f"loss.weight has {numbers}, and there are {data.num_classes} classes", "loss.weight")
    sample = served(data.targets[0][:1])
    try:
        value = copy.deepcopy(objective)(torch.zeros(1, *plan.output), sample)
    except Exception as error:
        raise RequestError(f"loss: {first_line(error)}{own_frames(error)}", "loss") from error
    if not recorded and (not isinstance(value, torch.Tensor) or value.dim()):
        given = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
        raise RequestError(
            f"loss: {type(loss).__name__} gives {given}; a step takes one number, the mean of its batch", "loss"
        )
    return objective
