"""Find which groups of a config the task takes: a `lamella.Task` all of them, another LightningModule what it names."""

import typing
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import pytorch_lightning as pl
from torch import nn
from torch.optim import Optimizer

from lamella import signatures
from lamella.config.targets import resolve_target
from lamella.errors import RequestError
from lamella.network.freeze import Freeze
from lamella.training.own_module import defines, title
from lamella.training.task import Task

GIVEN = ("network", "loss", "optimizer")  # the objects that the constructor of a LightningModule may take
PARTS = (*GIVEN, "scheduler")  # the groups that a Task takes
NEEDED = ("training_step", "configure_optimizers")


@dataclass(frozen=True)
class OptimizerFactory:
    """What a LightningModule takes as `optimizer`: called with parameters, it makes the optimizer of the config.

    make: takes the parameters as `params`. Lightning keeps an argument of a constructor as a hyperparameter only where
    it can be pickled, which a function defined in another one cannot.
    """

    make: Callable[..., Optimizer]

    def __call__(self, params: Iterable[nn.Parameter], **arguments: object) -> Optimizer:
        """Return the optimizer. arguments: in place of those of the config."""
        return self.make(params=params, **arguments)


@dataclass(frozen=True)
class TaskKind:
    """What is known of a task before it is made.

    made: its class. given: the names of the objects with which it is made. is_task: whether it is a Task, which gets
    them later. has_own_step: whether the project may have written its step.
    """

    made: type[pl.LightningModule]
    given: tuple[str, ...]
    is_task: bool
    has_own_step: bool

    @classmethod
    def of(cls, target: object) -> "TaskKind":
        """Return the kind of the task that a `_target_` names: a class, or a function of the project's own.

        A function that does not say what it returns is one that makes a Task. Raises RequestError for what is no
        LightningModule, and for one that cannot be trained.
        """
        found = resolve_target(target, "task._target_", pl.LightningModule)
        made = found if isinstance(found, type) else typing.get_type_hints(found).get("return", Task)
        if issubclass(made, Task):
            return cls(made, (), True, found is not Task)
        if missing := [name for name in NEEDED if not defines(made, name)]:
            raise RequestError(f"task: {title(made)} has no {' and no '.join(missing)}, which training needs", "task")
        expected = signatures.parameters(found)
        return cls(made, tuple(name for name in GIVEN if name in expected), False, True)

    @property
    def title(self) -> str:
        """Return the name of the class for messages, as gan.GAN."""
        return title(self.made)

    def takes(self, group: str) -> bool:
        """Return whether the task takes what a config group describes."""
        return self.is_task or group in self.given

    def check_written(self, keys: Collection[str]) -> None:
        """Raise RequestError for a key, which was set for this run, of a group that the task does not take."""
        for key in keys:
            group = key.partition(".")[0]
            if group in PARTS and not self.takes(group):
                why = (
                    f"{self.title} makes its schedulers itself"
                    if group == "scheduler"
                    else f"the constructor of {self.title} has no argument {group!r}"
                )
                raise RequestError(f"{key} has no effect: {why}; leave {key} out", key)

    def check_network(self, has_weights: bool, freeze: Freeze) -> None:
        """Raise RequestError for keys of the network of which Lamella cannot take care in a module of another class."""
        keys = {"weights": has_weights, "freeze": any(epoch is not None for epoch in freeze.values())}
        for key, is_set in keys.items():
            if is_set and not self.is_task:
                what = "load initial weights" if key == "weights" else "thaw parameters"
                raise RequestError(
                    f"network.{key}: {self.title} is no lamella.Task, and has to {what} by itself; leave it out",
                    f"network.{key}",
                )

    def check_compile(self, mode: str | None) -> None:
        """Raise RequestError where steps are to be compiled that the project writes. mode: None to compile none."""
        if mode and self.has_own_step:
            raise RequestError(
                f"device.compile compiles the step of lamella.Task, and {self.title} may have its own; leave it out, "
                "and call torch.compile there",
                "device.compile",
            )

    def check_chunk(self, batches: int | None) -> None:
        """Raise RequestError for a number of batches of a chunk that the task cannot train in one go."""
        if not self.is_task and batches not in (None, 1):
            raise RequestError(
                f"trainer.chunk is {batches}, but the batches of {self.title} are trained one by one; leave it out",
                "trainer.chunk",
            )
