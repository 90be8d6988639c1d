"""Build Lightning's Trainer, its callbacks and its loggers from the config groups `trainer` and `visuals`."""

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.loggers import Logger
from pytorch_lightning.profilers import Profiler
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, Strategy

from lamella.config.checks import TRAINER_KEYS
from lamella.config.targets import check_target, instantiate, resolve_target
from lamella.config.values import Config
from lamella.config.written import check_written_paths, writing_into
from lamella.console import print
from lamella.distributed import rank
from lamella.errors import RequestError
from lamella.training.checkpoint_interval import CheckpointInterval, checkpoint_interval
from lamella.training.device import strategy_kind
from lamella.training.overfit import overfit_limits

# The arguments of the Trainer that Lamella sets: it does these things itself, or does not need them.
OPTIONS = {
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,
}
# The classes of which an argument of the Trainer may be, beside callbacks and loggers.
PARTS = (Strategy, Profiler)
# The modules of Lightning that give advice on loggers, workers and tuning, which Lamella has followed or does not need.
LIGHTNING = ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric")


# The loggers of Lightning's callbacks and profilers, whose messages come only because a config asks for them.
MESSENGERS = ("pytorch_lightning.callbacks", "pytorch_lightning.profilers", "pytorch_lightning.utilities.rank_zero")


class _Messages(logging.Handler):
    """Prints the messages of callbacks and profilers, and errors. Other parts of Lightning use the same loggers."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR or re.search(r"[/\\](callbacks|profilers)[/\\]", record.pathname):
            print(record.getMessage())


MESSAGES = _Messages()


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's warnings within the block, and its messages from now on, except what a config asks for."""
    for name in LIGHTNING:
        logging.getLogger(name).setLevel(logging.ERROR)
    for logger in map(logging.getLogger, MESSENGERS):
        logger.handlers, logger.propagate = [MESSAGES], False
        logger.setLevel(logging.INFO)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="|".join(LIGHTNING))
        yield


def saving_and_chunks(node: Config) -> tuple[CheckpointInterval, int | None]:
    """Return how often a run is saved within an epoch, and the number of batches of a chunk, None for "auto".

    node: the config group `trainer`. Raises RequestError for a value that is not allowed.
    """
    return checkpoint_interval(node.get("checkpoint_every", "5min")), _chunk_size(node.get("chunk", "auto"))


def _chunk_size(value: object) -> int | None:
    """Return the number of batches that `trainer.chunk` asks for, None for "auto"."""
    if value == "auto":
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RequestError(
            f"trainer.chunk is {value!r}; it takes auto, or a number of batches that are trained in one go",
            "trainer.chunk",
        )
    return value


def build_trainer(
    node: Config,
    visuals: Config,
    accelerator: str,
    precision: str,
    deterministic: bool,
    make: Callable[[Config], Callable[..., pl.Trainer]],
) -> Callable[..., pl.Trainer]:
    """Return a function that makes the Trainer from the first callbacks, the last ones, the last loggers and options.

    The function leaves out the callbacks and loggers of the config if it is called with `configured=False`.

    node: the config group `trainer`. visuals: the config group `visuals`. make: checks the arguments of the Trainer
    that the config decides, and returns a function that makes the Trainer from these and further ones. Raises
    RequestError for a value that is not allowed.
    """
    options = {name: value for name, value in node.items() if name not in TRAINER_KEYS} | overfit_limits(node)
    _check_options(options, accelerator)
    callback_nodes = _numbered(options.pop("callbacks", None), "trainer.callbacks")
    logger_nodes = _numbered(options.pop("logger", None), "trainer.logger")
    profiler_node = {"profiler": options.pop("profiler")} if isinstance(options.get("profiler"), dict) else {}
    _check_targets(visuals, "visuals", pl.Callback)
    _check_targets(callback_nodes, "trainer.callbacks", pl.Callback)
    _check_targets(logger_nodes, "trainer.logger", Logger)
    _check_targets(profiler_node, "trainer", Profiler)
    check_written_paths(options.get("strategy"), "trainer.strategy")
    place: dict[str, object] = {"accelerator": accelerator, "precision": precision}
    if deterministic or torch.are_deterministic_algorithms_enabled():
        place["deterministic"] = deterministic  # imports torch's compiler, because torch sets an option of it as well
    make_from_config = make({**place, **OPTIONS, **options})

    def make_trainer(
        first: list[pl.Callback],
        last: list[pl.Callback],
        loggers: list[Logger],
        configured: bool = True,
        plugins: Sequence[object] = (),
        **more: object,
    ) -> pl.Trainer:
        directory, callbacks, first_loggers = (
            Path(str(more.get("default_root_dir", "."))),
            [*first, *last],
            list[Logger](),
        )
        if configured:
            drawn = _instances(visuals, "visuals", pl.Callback, directory)
            own = _instances(callback_nodes, "trainer.callbacks", pl.Callback, directory)
            callbacks = [*first, *([VisualCallbacks(drawn)] if drawn else []), *own, *last]
            first_loggers = _instances(logger_nodes, "trainer.logger", Logger, directory)
            if profiler_node:
                [more["profiler"]] = _instances(profiler_node, "trainer", Profiler, directory)
        return make_from_config(
            callbacks=callbacks,
            logger=[*first_loggers, *loggers],
            # If there is no Checkpoint callback, Lightning would add one.
            enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
            plugins=[_one_machine(), *plugins],
            **more,
        )

    return make_trainer


def _one_machine() -> LightningEnvironment:
    """Return the environment in which `trainer.devices` decides how many processes share the work of a run.

    Without it, Lightning takes their number and the rank of this process from the variables of Slurm, MPI and others,
    which describe the job that this process belongs to and not the run.
    """
    environment = LightningEnvironment()
    environment.set_global_rank(rank())
    return environment


def _check_options(options: Config, accelerator: str) -> None:
    """Raise RequestError for values that the Trainer would accept although they cannot work."""
    if options.get("plugins"):
        raise RequestError(
            "trainer.plugins: Lamella sets this argument of the Trainer; device.precision chooses the precision, and "
            "Lamella writes the checkpoints",
            "trainer.plugins",
        )
    kind, _ = strategy_kind(options)
    if issubclass(kind, FSDPStrategy | DeepSpeedStrategy) and accelerator != "cuda":
        name = options["strategy"] if isinstance(options["strategy"], str) else kind.__name__
        raise RequestError(f"trainer.strategy is {name!r}, which needs CUDA; use trainer=ddp", "trainer.strategy")
    if options.get("fast_dev_run"):
        raise RequestError(
            "trainer.fast_dev_run leaves no metrics and no checkpoints behind; use trainer=debug",
            "trainer.fast_dev_run",
        )
    epochs = options.get("max_epochs")
    if isinstance(epochs, int) and epochs < 1:
        raise RequestError(f"trainer.max_epochs is {epochs}; it takes 1 or more", "trainer.max_epochs")
    for name in ("accumulate_grad_batches", "val_check_interval", "check_val_every_n_epoch"):
        if isinstance(options.get(name), int | float) and options[name] <= 0:
            raise RequestError(f"trainer.{name} is {options[name]}; it takes more than 0", f"trainer.{name}")


def _numbered(nodes: object, key: str) -> dict[str, Config]:
    """Return the entries of a list in the config by their numbers. Raise RequestError for anything but a list."""
    nodes = nodes or []
    if not isinstance(nodes, list):
        raise RequestError(f"{key} is {nodes!r}; it takes a list", key)
    return {str(number): node for number, node in enumerate(nodes)}


def _check_targets(nodes: Config, key: str, base: type) -> None:
    for name, node in nodes.items():
        check_target(node, f"{key}.{name}", base)
        check_written_paths(node, f"{key}.{name}")


def _instances(nodes: Config, key: str, base: type, directory: Path) -> list[Any]:
    """Return the objects that nodes describe, which write into `directory`. base: their class."""
    return [
        instantiate(writing_into(directory, node, resolve_target(node["_target_"], key, base)), f"{key}.{name}")
        for name, node in nodes.items()
    ]


# The hooks that Lightning calls on a callback, without the methods that save and load its state.
CALLBACK_HOOKS = [name for name in vars(pl.Callback) if name in ("setup", "teardown") or name.startswith("on_")]


class VisualCallbacks(pl.Callback):
    """A callback that calls the hooks of several others.

    Lightning calls some ten hooks of each callback in each step, which takes long compared with a small network. This
    class has only those hooks that one of the callbacks in `drawn` defines.
    """

    def __init__(self, drawn: list[pl.Callback]) -> None:
        self.drawn = drawn
        for name in CALLBACK_HOOKS:
            base = getattr(pl.Callback, name)
            hooks = [getattr(callback, name) for callback in drawn if getattr(type(callback), name) is not base]
            if hooks:
                setattr(self, name, partial(_call_each, hooks))


def _call_each(hooks: list[Callable[..., object]], *given: object, **more: object) -> None:
    for hook in hooks:
        hook(*given, **more)
