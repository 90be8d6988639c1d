"""Decide which optimizer trains which parameters, and in which batches it takes a step."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.utilities.types import LRSchedulerConfigType, OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lamella.errors import RequestError
from lamella.lightning_internals import batch_index
from lamella.network.parameters import check_matching, matching, parameter_kinds
from lamella.training.parameter_groups import Grouping, ParameterGroup, described_groups, keep_proportions
from lamella.training.scheduler import Schedule, check_length

SINGLE = ""  # the name of the optimizer of a run that has one


def prefix(name: str) -> str:
    """Return how the names of what is counted for an optimizer begin, as in `generator_loss`."""
    return "" if name == SINGLE else f"{name}_"


@dataclass(frozen=True)
class OptimizerPlan:
    """Says which parameters an optimizer trains, and in which batches it takes a step.

    grouping: makes the optimizer. match: patterns of the names of its parameters, as `matching` takes them. every: the
    optimizer takes a step in the first batch of each epoch, and then in each batch that comes `every` batches after its
    last one. thaws: the last epoch in which a parameter is frozen, by name.
    """

    grouping: Grouping
    match: tuple[str, ...] = ("*",)
    every: int = 1
    thaws: Mapping[str, float] = field(default_factory=dict)

    def steps(self, batches: int) -> int:
        """Return how many steps the optimizer takes in the first `batches` batches of an epoch."""
        return -(-batches // self.every)

    def schedule_length(self, trainer: pl.Trainer, interval: str) -> int | None:
        """Return how many steps a scheduler of the optimizer takes in the run, None if that is not known.

        interval: "epoch" or "step", how often the scheduler takes a step.
        """
        steps = trainer.estimated_stepping_batches  # which reads how many batches there are
        if math.isinf(trainer.num_training_batches):  # the length of a stream is not known
            steps = (trainer.max_steps if interval == "step" else trainer.max_epochs) or -1
        else:
            each_epoch = -(-int(trainer.num_training_batches) // trainer.accumulate_grad_batches)
            steps = steps * (self.steps(each_epoch) if interval == "step" else 1) / each_epoch
        return math.ceil(steps) if 0 <= steps < math.inf else None


def parameters_by_optimizer(network: nn.Module, plans: Mapping[str, OptimizerPlan]) -> dict[str, list[str]]:
    """Return the names of the parameters that each optimizer trains, in the order in which the network has them.

    Raises RequestError for a pattern that matches no parameter that needs gradients, and for such a parameter that not
    exactly one of the optimizers trains.
    """
    kinds = parameter_kinds(network)
    trained = {name: kinds[name] for name, value in network.named_parameters() if value.requires_grad}
    owners: dict[str, list[str]] = {name: [] for name in trained}
    for owner, plan in plans.items():
        check_matching(trained, plan.match, f"optimizer.{owner}.match")
        for name in {name for pattern in plan.match for name in matching(trained, pattern)}:
            owners[name].append(owner)
    for name, found in owners.items():
        if len(found) > 1:
            key = f"optimizer.{found[1]}.match"
            raise RequestError(
                f"{key}: {name} is trained by optimizer.{found[0]} too; each parameter has one optimizer", key
            )
    if left := [name for name, found in owners.items() if not found]:
        more = f" and {len(left) - 1} more parameters" if len(left) > 1 else ""
        raise RequestError(
            f"optimizer: no optimizer trains {left[0]}{more}; write a pattern of its name into the `match` of one,\n"
            f"  which may be a list, or network.freeze=[{left[0]}] leaves it as it is",
            "optimizer",
        )
    return {owner: [name for name, found in owners.items() if owner in found] for owner in plans}


def parameter_groups(network: nn.Module, plans: Mapping[str, OptimizerPlan]) -> dict[str, list[ParameterGroup]]:
    """Return the groups of each optimizer that has several, by the name of its config key.

    Raises RequestError as `configure` does.
    """
    found, names = {}, parameters_by_optimizer(network, plans)
    for name, plan in plans.items():
        if plan.grouping.divides:
            optimizer = plan.grouping.optimizer(network, names[name], plan.thaws, _key(name))
            found[_key(name)] = described_groups(network, optimizer)
    return found


def _key(name: str) -> str:
    """Return the config key of the optimizer of this name."""
    return f"optimizer.{name}" if name else "optimizer"


def configure(
    network: nn.Module, plans: Mapping[str, OptimizerPlan], schedule: Schedule, trainer: pl.Trainer
) -> tuple[list[OptimizerLRSchedulerConfig], list[int | None]]:
    """Return each optimizer with its scheduler, as Lightning takes them, and how many steps each scheduler takes.

    Raises RequestError where the optimizers do not suit the parameters, or the schedulers the length of the run.
    """
    parameters, interval = parameters_by_optimizer(network, plans), schedule.interval
    configured, lengths = list[OptimizerLRSchedulerConfig](), list[int | None]()
    for name, plan in plans.items():
        optimizer = plan.grouping.optimizer(network, parameters[name], plan.thaws, _key(name))
        length = plan.schedule_length(trainer, interval)
        scheduler = schedule.make(optimizer, length)
        keep_proportions(optimizer)
        check_length(scheduler, length, interval)
        if isinstance(scheduler, ReduceLROnPlateau) and not trainer.enable_validation:
            raise RequestError(
                "scheduler: plateau follows val/loss, and the trainer's limits leave no validation", "trainer"
            )
        # Not strict: a plateau scheduler takes no step after an epoch without validation.
        place: LRSchedulerConfigType = {
            "scheduler": scheduler,
            "interval": interval,
            "monitor": "val/loss",
            "strict": False,
        }
        configured.append({"optimizer": optimizer, "lr_scheduler": place})
        lengths.append(length)
    if len(plans) > 1 and math.isinf(trainer.num_training_batches):
        raise RequestError(
            "optimizer: the steps of several optimizers are counted by the batches of an epoch, and this stream does "
            "not say how many it has; give its class a __len__",
            "optimizer",
        )
    return configured, lengths


def take_turns(
    trainer: pl.Trainer,
    plans: Mapping[str, OptimizerPlan],
    schedule: Schedule,
    turn: Callable[[str, LightningOptimizer], Tensor],
) -> Tensor:
    """Let each optimizer whose turn it is in the running batch take a step, and return the sum of the losses.

    turn: called with the name of the optimizer and the optimizer; takes the step and returns the loss. The schedulers,
    which Lightning leaves alone in manual optimization, take their steps as they do for a single optimizer.
    """
    number, losses = batch_index(trainer), list[Tensor]()
    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    found = trainer.lightning_module.optimizers()
    optimizers = found if isinstance(found, list) else [found]
    for (name, plan), optimizer, scheduler in zip(plans.items(), optimizers, schedulers, strict=True):
        if number % plan.every == 0:
            losses.append(turn(name, optimizer))
            if schedule.interval == "step":
                trainer.lightning_module.lr_scheduler_step(scheduler, None)
    if schedule.interval == "epoch" and trainer.is_last_batch:
        for scheduler in schedulers:
            trainer.lightning_module.lr_scheduler_step(scheduler, None)
    return torch.stack(losses).sum()
