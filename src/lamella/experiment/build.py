"""Build the objects of a run from a config: the one place that knows what each group of the config becomes."""

from collections.abc import Callable, Collection, Mapping
from functools import cached_property, partial
from typing import TypeVar

import pytorch_lightning as pl
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset

from lamella import signatures
from lamella.config.checks import ROOT_KEYS, check_root, is_read
from lamella.config.files import OPTIONAL
from lamella.config.targets import check_target, instantiate, resolve_target
from lamella.config.values import Config, check_values
from lamella.data import Data, Datasets, OwnData, RunData, Splits
from lamella.data.samples import Encoder, InputType, Shape, input_type
from lamella.errors import RequestError, first_line
from lamella.experiment.data_maker import check_count, data_maker
from lamella.experiment.experiment import Experiment
from lamella.experiment.initial_weights import InitialWeights
from lamella.experiment.loss import build_loss
from lamella.experiment.memory_format import check_memory_format
from lamella.experiment.metrics import build_metrics, check_monitor
from lamella.experiment.objective import build_objective
from lamella.experiment.optimizers import build_optimizers, check_rates, optimizer_arguments
from lamella.experiment.stacks import plan_network
from lamella.experiment.task_kind import OptimizerFactory, TaskKind
from lamella.network.freeze import read_freeze
from lamella.network.plan import Plan
from lamella.runs.names import check_run_name
from lamella.seeds import SOURCE, seeded
from lamella.training.class_weights import balanced_weights
from lamella.training.device import Device
from lamella.training.optimizers import SINGLE, OptimizerPlan
from lamella.training.overfit import overfit_batches, wants_test
from lamella.training.own_module import defines
from lamella.training.recipe import Recipe
from lamella.training.scheduler import Schedule, build_schedule, check_schedule
from lamella.training.trainer import PARTS, build_trainer, quiet_lightning, saving_and_chunks

T = TypeVar("T")
SUPERVISED = "lamella.Task"  # compares the network's output with the targets
# The classes that the arguments of an object may be built from, by the class of the object.
NESTED_CLASSES: dict[type, tuple[type, ...]] = {
    Data: (Splits,),
    Datasets: (Dataset, nn.Module),  # transforms of torchvision are modules
    pl.LightningDataModule: (Dataset, nn.Module),
    nn.Module: (nn.Module,),
    pl.Trainer: PARTS,
}


def prepare_experiment(
    config: Config,
    references: Collection[str] | None = None,
    data: RunData | None = None,
    encoder: Encoder | None = None,
    written: Collection[str] = (),
) -> Experiment:
    """Configure this process for the device of a config, and build what the run needs, as `build_experiment` does.

    The number of threads is set before data are read and weights are drawn, because their bits may depend on it.
    """
    return build_experiment(config, references, data, Device.configure_process, encoder, written)


def build_experiment(
    config: Config,
    references: Collection[str] | None = None,
    data: RunData | None = None,
    use_device: Callable[[Device], None] = lambda device: None,
    encoder: Encoder | None = None,
    written: Collection[str] = (),
) -> Experiment:
    """Build everything that a run needs from a resolved config. Raises RequestError for a config that cannot be run.

    references: the keys that interpolations read. A key that is no argument of its group's object, and that no
    interpolation reads, is an error. None leaves such keys unchecked, for a config that was composed earlier. data:
    samples that have been read for another run, None to read them. use_device: called with the device before data are
    read and weights are drawn. encoder: of the run that is tested, None to fit that of the source. written: the keys
    that were set for this run. One in a group that the task does not take is an error.
    """
    builder = _Builder(config, references)
    device = Device.of(config["device"])
    use_device(device)
    name, seed = builder.root()
    data = data.with_seed(config["data"].get("seed", 0)) if data else builder.data(encoder)
    make_task, class_weights = builder.task(), balanced_weights(config["loss"], data)
    builder.kind.check_written(written)
    data.overfit = overfit_batches(config["trainer"]) is not None
    data.tests = wants_test(config["trainer"], written) and defines(builder.kind.made, "test_step")
    if isinstance(data, OwnData):
        data.unchanged = not builder.kind.is_task
    weights, freeze = InitialWeights.of(config["network"]), read_freeze(config["network"].get("freeze"))
    builder.kind.check_network(weights is not None, freeze)
    plan = builder.network(data.shape, data.input_type) if builder.kind.takes("network") else None
    loss = builder.loss(class_weights)
    objective = build_objective(
        plan if builder.kind.is_task else None,
        loss,
        data,
        config["network"].get("class_dim"),
        builder.kind.has_own_step,
        references is None,
    )
    factory = builder.optimizer_factory()
    optimizers, schedule = builder.optimizers()
    metrics = build_metrics(config.get("metrics") or {}, objective, plan.output if plan else (), data.targets[0])
    trainer = builder.trainer(device)
    checkpoint_every, chunk = saving_and_chunks(config["trainer"])
    builder.kind.check_chunk(chunk)
    builder.kind.check_compile(device.compile)
    experiment = Experiment(
        name=name,
        seed=seed,
        monitor=config["monitor"],
        device=device,
        data=data,
        make_task=make_task,
        kind=builder.kind,
        plan=plan,
        weights=weights,
        freeze=freeze,
        objective=objective,
        metrics=metrics,
        factory=factory,
        optimizers=optimizers,
        schedule=schedule,
        trainer=trainer,
        test=data.tests,
        recipe=Recipe.of(config["trainer"]),
        class_weights=class_weights,
        epochs=config["trainer"].get("max_epochs"),
        checkpoint_every=checkpoint_every,
        chunk=chunk if SINGLE in optimizers else 1,
    )
    if builder.kind.is_task:
        check_monitor(experiment.monitor, experiment.counted, data.validates, builder.kind.has_own_step)
    if references is not None:
        check_memory_format(experiment)
    return experiment


def build_network(config: Config) -> tuple[nn.Module, nn.Module, tuple[int, ...]]:
    """Return the network of a resolved config, its loss, and the shape of the network's output for one sample.

    A LightningModule of the project's own takes the place of the network, and the shape is (). No data is read, and the
    weights are to be replaced. Raises RequestError.
    """
    builder, shape = _Builder(config, None), config["data"].get("shape")
    sizes = list(shape.values()) if isinstance(shape, Mapping) else [shape]
    if not all(isinstance(one, list) and all(isinstance(size, int) and size > 0 for size in one) for one in sizes):
        raise RequestError(f"data.shape is {shape!r}; it takes the sizes of a sample, as [1, 28, 28]", "data.shape")
    try:
        dtype, loss = input_type(config["data"].get("dtype", "float32")), builder.loss()
        plan = builder.network(shape, dtype) if builder.kind.takes("network") else None
        # Drawing the weights leaves the state of the random generators as it is.
        with quiet_lightning(), torch.random.fork_rng():
            network = plan.build() if plan else None
            if not builder.kind.is_task:
                parts = {"network": network, "loss": loss, "optimizer": builder.optimizer_factory()}
                return builder.task()(**{name: parts[name] for name in builder.kind.given}), loss, ()
            assert plan
            assert network
            return network, loss, plan.output
    except (RuntimeError, MemoryError) as error:
        raise RequestError(f"network: it cannot be made: {first_line(error)}", "network") from error


def build_data(config: Config, references: Collection[str] | None = None) -> RunData:
    """Read the samples of a config and build nothing else. Raises RequestError as `build_experiment` does."""
    return _Builder(config, references).data(None)


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
        return check_run_name(self.config["name"]), self.config["seed"]

    def data(self, encoder: Encoder | None) -> RunData:
        """Read the samples. What a source draws at random depends on `data.split_seed` alone."""
        make = data_maker(self.config["data"], self.make, encoder)
        with seeded(torch.device("cpu"), self.config["data"].get("split_seed", 0) % 2**63, SOURCE):
            data = make()
        if self.references is not None:
            data.check_keys()
            check_count(data, self.read("data.num_classes") and self.kind.takes("network"))
        return data

    def task(self) -> Callable[..., pl.LightningModule]:
        """Return the function that makes the task from the objects in `kind.given`. A Task has no network yet."""
        return self.make("task", pl.LightningModule, self.task_node, supplied=self.kind.given)

    @property
    def task_node(self) -> Config:
        """Return the config of the task, which the configs of earlier versions lack."""
        return self.config.get("task") or {"_target_": SUPERVISED}

    @cached_property
    def kind(self) -> TaskKind:
        """Return what is known of the task before it is made."""
        return TaskKind.of(self.task_node.get("_target_", SUPERVISED))

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

    def loss(self, weights: torch.Tensor | None = None) -> nn.Module:
        """Build the loss. weights: the balanced ones of the classes, None without data.

        A task that takes no loss gets one that nobody calls.
        """
        if not self.kind.takes("loss"):
            return nn.Identity()
        return build_loss(self.config["loss"], weights, partial(self.make, "loss", nn.Module))

    def optimizer_factory(self) -> OptimizerFactory | None:
        """Return what a LightningModule of the project's own takes as `optimizer`, None if it takes none."""
        if "optimizer" not in self.kind.given:
            return None
        node = optimizer_arguments(self.config["optimizer"], self.kind.title)
        return OptimizerFactory(self.make("optimizer", Optimizer, node, supplied={"params"}))

    def optimizers(self) -> tuple[dict[str, OptimizerPlan], Schedule | None]:
        """Return the plans of the optimizers, by name, and the schedule of their learning rates.

        Both are empty where the task makes its own.
        """
        if not self.kind.is_task:
            return {}, None

        def make(key: str, node: Config) -> Callable[..., Optimizer]:
            return self.make(key, Optimizer, node, supplied={"params"})

        plans = build_optimizers(self.config["optimizer"], make, self.read)
        schedule = build_schedule(self.config["scheduler"], partial(self.make, base=LRScheduler))
        tried = [plan.grouping.tried() for plan in plans.values()]
        check_rates(tried)
        check_schedule(schedule, self.config["scheduler"], tried)
        return plans, schedule

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
        expected = signatures.builder_parameters(target)
        variadic = signatures.is_variadic(expected)
        for name in list(node):
            if name not in expected and not variadic and not str(name).startswith("_") and self.read(f"{group}.{name}"):
                del node[name]
        check_target(node, group, base, supplied, NESTED_CLASSES.get(base, ()))
        return partial(instantiate, node, group)

    def read(self, key: str) -> bool:
        """Return whether an interpolation reads a key."""
        return is_read(key, self.references)
