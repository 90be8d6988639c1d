"""Build the objects of a run from a config: the one place that knows what each group of the config becomes."""

import copy
import typing
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from typing import TypeVar

import pytorch_lightning as pl
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lamella import signatures
from lamella.config.checks import ROOT_KEYS, check_root, is_read
from lamella.config.files import OPTIONAL
from lamella.config.targets import check_target, instantiate, resolve_target
from lamella.config.values import Config, check_values
from lamella.data import Augment, Data, Splits
from lamella.data.samples import Encoder, InputType, Shape, input_type, served
from lamella.errors import RequestError, first_line, own_frames
from lamella.experiment.experiment import Experiment
from lamella.experiment.metrics import build_metrics, check_monitor
from lamella.experiment.stacks import plan_network
from lamella.network.plan import Plan
from lamella.runs.names import check_run_name
from lamella.seeds import SOURCE, seeded
from lamella.training.class_weights import balanced_weights
from lamella.training.device import Device
from lamella.training.objective import Objective
from lamella.training.recipe import Recipe
from lamella.training.scheduler import Schedule, build_schedule, check_schedule
from lamella.training.task import Task
from lamella.training.trainer import PARTS, build_trainer, saving_and_chunks

T = TypeVar("T")
SUPERVISED = "lamella.Task"  # compares the network's output with the targets
# The classes that the arguments of a group's object may be built from.
NESTED_CLASSES: dict[str, tuple[type, ...]] = {
    "data": (Splits, Augment),
    "network": (nn.Module,),
    "loss": (nn.Module,),
    "trainer": PARTS,
}


def prepare_experiment(
    config: Config,
    references: Collection[str] | None = None,
    data: Data | None = None,
    encoder: Encoder | None = None,
) -> Experiment:
    """Configure this process for the device of a config, and build what the run needs, as `build_experiment` does.

    The number of threads is set before data are read and weights are drawn, because their bits may depend on it.
    """
    return build_experiment(config, references, data, Device.configure_process, encoder)


def build_experiment(
    config: Config,
    references: Collection[str] | None = None,
    data: Data | None = None,
    use_device: Callable[[Device], None] = lambda device: None,
    encoder: Encoder | None = None,
) -> Experiment:
    """Build everything that a run needs from a resolved config. Raises RequestError for a config that cannot be run.

    references: the keys that interpolations read. A key that is no argument of its group's object, and that no
    interpolation reads, is an error. None leaves such keys unchecked, for a config that was composed earlier. data:
    samples that have been read for another run, None to read them. use_device: called with the device before data are
    read and weights are drawn. encoder: of the run that is tested, None to fit that of the source.
    """
    builder = _Builder(config, references)
    device = Device.of(config["device"])
    use_device(device)
    name, seed = builder.root()
    data = data.with_seed(config["data"].get("seed", 0)) if data else builder.data(encoder)
    data.tests = config["trainer"].get("test", True)
    make_task, weights = builder.task(), balanced_weights(config["loss"], data)
    plan, freeze, loss = builder.network(data.shape, data.input_type), builder.freeze(), builder.loss(weights)
    objective = builder.objective(plan, loss, data)
    optimizer, schedule = builder.optimizer()
    metrics = build_metrics(config.get("metrics") or {}, objective, plan.output, data.targets[0])
    counted = ["loss", *filter(None, [objective.metric]), *metrics]
    monitor = check_monitor(config["monitor"], counted, bool(len(data.val)), builder.has_own_step)
    trainer = builder.trainer(device)
    checkpoint_every, chunk = saving_and_chunks(config["trainer"])
    return Experiment(
        name=name,
        seed=seed,
        monitor=monitor,
        device=device,
        data=data,
        make_task=make_task,
        plan=plan,
        freeze=freeze,
        objective=objective,
        metrics=metrics,
        optimizer=optimizer,
        schedule=schedule,
        trainer=trainer,
        test=data.tests,
        recipe=Recipe.of(config["trainer"]),
        class_weights=weights,
        epochs=config["trainer"].get("max_epochs"),
        checkpoint_every=checkpoint_every,
        chunk=chunk,
    )


def build_network(config: Config) -> tuple[nn.Module, nn.Module, tuple[int, ...]]:
    """Return the network of a resolved config, its loss, and the shape of the network's output for one sample.

    No data is read, and the weights are to be replaced. Raises RequestError.
    """
    builder, shape = _Builder(config, None), config["data"].get("shape")
    sizes = list(shape.values()) if isinstance(shape, Mapping) else [shape]
    if not all(isinstance(one, list) and all(isinstance(size, int) and size > 0 for size in one) for one in sizes):
        raise RequestError(f"data.shape is {shape!r}; it takes the sizes of a sample, as [1, 28, 28]", "data.shape")
    try:
        plan, loss = builder.network(shape, input_type(config["data"].get("dtype", "float32"))), builder.loss()
        with torch.random.fork_rng():  # drawing the weights leaves the state of the random generators as it is
            return plan.build(), loss, plan.output
    except (RuntimeError, MemoryError) as error:
        raise RequestError(f"network: it cannot be made: {first_line(error)}", "network") from error


class _Builder:
    """Builds the objects of the groups of one config. Each method raises RequestError for what it cannot build."""

    def __init__(self, config: Config, references: Collection[str] | None) -> None:
        check_values(config)
        self.config, self.references = config, references

    def root(self) -> tuple[str, int]:
        """Return the name and the seed of the run, after checking the keys at the root of the config."""
        check_root(self.config, self.references)
        for key in ROOT_KEYS:
            if key not in (*self.config, *OPTIONAL):
                raise RequestError(f"{key}: this key is missing, and a run needs it", key)
        name, seed = check_run_name(self.config["name"]), self.config["seed"]
        return name, seed

    def data(self, encoder: Encoder | None) -> Data:
        """Read the samples. What a source draws at random depends on `data.split_seed` alone."""
        make = self.make("data", Data, supplied={"encoder"})
        with seeded(torch.device("cpu"), self.config["data"].get("split_seed", 0) % 2**63, SOURCE):
            data = make(encoder=encoder) if encoder else make()
        if self.references is not None:
            data.check_keys()
        return data

    def task(self) -> Callable[[], Task]:
        """Return the function that makes the task, which has no network yet."""
        return self.make("task", Task, self.config.get("task") or {"_target_": SUPERVISED})

    @property
    def has_own_step(self) -> bool:
        """Return True if the task may have a step of its own."""
        return bool(self.config.get("task", {}).get("_target_", SUPERVISED) != SUPERVISED)

    def network(self, shape: Shape, dtype: InputType) -> Plan:
        """Plan the network for samples of `shape` and `dtype`."""
        return plan_network(
            self.config["network"],
            shape,
            dtype,
            lambda place, node: self.make(place, nn.Module, node),
            self.read,
            self.references is None,
        )

    def freeze(self) -> list[str]:
        """Return the patterns of the names of parameters that are not trained."""
        patterns = self.config["network"].get("freeze", [])
        if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
            raise RequestError(
                f"network.freeze is {patterns!r}; it takes a list of patterns, as [features.*]", "network.freeze"
            )
        return patterns

    def loss(self, weights: torch.Tensor | None = None) -> nn.Module:
        """Build the loss, with class weights as tensors. weights: the balanced ones, None without data."""
        node = dict(self.config["loss"])
        if isinstance(node.get("weight"), str):
            node["weight"] = weights
        for key in ("weight", "pos_weight"):
            if isinstance(node.get(key), list):
                try:
                    node[key] = torch.tensor(node[key], dtype=torch.float32)
                except (TypeError, ValueError) as error:
                    raise RequestError(f"loss.{key} is {node[key]}; it takes numbers", f"loss.{key}") from error
        loss = self.make("loss", nn.Module, node)()
        reduction = getattr(loss, "reduction", "mean")
        if reduction not in ("mean", "batchmean"):
            raise RequestError(f"loss.reduction is {reduction!r}; a step takes the mean of its batch", "loss.reduction")
        return loss

    def objective(self, plan: Plan, loss: nn.Module, data: Data) -> Objective:
        """Return the objective, after a run of the loss on zeros.

        A recorded run may have been trained with a loss that gives a tensor of one number.
        """
        if plan.parts and not self.has_own_step:
            raise RequestError(
                f"network: it has {len(plan.parts)} named stacks, {', '.join(plan.parts)}, and the task {SUPERVISED} "
                "takes one; write one list `layers`,\n  or a task of your own, whose step runs the stacks",
                "network",
            )
        if plan.parts:
            return Objective(loss, "other")
        last = plan.trace[-1]
        ending = (
            f";\n  it ends with {last.layer} at {last.place}, which takes {last.input}; "
            "end it with Flatten and Linear: ${data.num_classes}"
        ) * data.has_classes
        class_dim = self.config["network"].get("class_dim")
        try:
            objective = Objective.of(loss, data.targets, plan.output, data.num_classes, ending, class_dim)
        except RequestError:
            if class_dim is None and self.has_own_step:
                return Objective(loss, "other")
            raise
        if data.fills_masks and objective.ignored != data.ignored:
            raise RequestError(
                f"loss: {type(loss).__name__} takes every target for a class, and data.augment fills masks with "
                f"{data.ignored} (data.ignored); take loss=cross_entropy, which leaves it out",
                "loss",
            )
        sample = served(data.targets[0][:1])
        try:
            value = copy.deepcopy(objective)(torch.zeros(1, *plan.output), sample)
        except Exception as error:
            raise RequestError(f"loss: {first_line(error)}{own_frames(error)}", "loss") from error
        if self.references is not None and (not isinstance(value, torch.Tensor) or value.dim()):
            given = (
                f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
            )
            raise RequestError(
                f"loss: {type(loss).__name__} gives {given}; a step takes one number, the mean of its batch", "loss"
            )
        return objective

    def optimizer(self) -> tuple[Callable[..., Optimizer], Schedule]:
        """Return the function that makes the optimizer of parameters, and the schedule of its learning rate."""
        make = self.make("optimizer", Optimizer, supplied={"params"})
        schedule = build_schedule(self.config["scheduler"], partial(self.make, "scheduler", LRScheduler))
        check_schedule(schedule, make(params=[nn.Parameter(torch.zeros(1, 1))]))
        return (lambda parameters: make(params=parameters)), schedule

    def trainer(self, device: Device) -> Callable[..., pl.Trainer]:
        """Return the function that makes the Trainer for a device."""
        make = partial(self.make, "trainer", pl.Trainer)
        return build_trainer(
            self.config["trainer"],
            self.config["visuals"],
            device.accelerator,
            device.precision,
            device.deterministic,
            make,
        )

    def make(
        self, group: str, base: type[T], node: Config | None = None, supplied: Collection[str] = ()
    ) -> Callable[..., T]:
        """Return the function that makes the object of a group, after checking the group's keys.

        Scalars that only interpolations read are left out. base: the class of the object. node: the config of the
        group, None to take it from the whole config. supplied: the arguments that the caller adds.
        """
        node = dict(self.config[group] if node is None else node)
        for name in supplied:
            if name in node:
                raise RequestError(f"{group}.{name}: Lamella gives this argument itself", f"{group}.{name}")
        if "_target_" not in node:
            raise RequestError(f"{group}: it takes a `_target_`, the class to build", group)
        target = resolve_target(node["_target_"], f"{group}._target_", base)
        expected = signatures.parameters(target)
        variadic = any(parameter.kind is parameter.VAR_KEYWORD for parameter in expected.values())
        # A builder of torchvision hands what it does not know to the class of its network.
        if variadic and not isinstance(target, type):
            with suppress(NameError):  # an annotation may name what is imported for type checkers only
                if isinstance(built := typing.get_type_hints(target).get("return"), type):
                    inner = signatures.parameters(built)
                    expected = expected | inner
                    variadic = any(parameter.kind is parameter.VAR_KEYWORD for parameter in inner.values())
        for name in list(node):
            if name not in expected and not variadic and not str(name).startswith("_") and self.read(f"{group}.{name}"):
                del node[name]
        check_target(node, group, base, supplied, NESTED_CLASSES.get(group.partition(".")[0], ()))
        return partial(instantiate, node, group)

    def read(self, key: str) -> bool:
        """Return whether an interpolation reads a key."""
        return is_read(key, self.references)
