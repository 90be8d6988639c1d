"""The `trainer` and `visuals` groups of a config: Lightning's Trainer, its callbacks and its loggers."""

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins import Precision
from pytorch_lightning.profilers import Profiler
from pytorch_lightning.strategies import Strategy

from lamella.config.targets import check_target, instantiate
from lamella.errors import RequestError
from lamella.training.checkpointing import CheckpointInterval, Checkpoints

# What Lamella does itself or has no use for.
OPTIONS = {
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,
}
# What the Trainer's own arguments may be built from, beside callbacks and loggers.
PARTS = (Strategy, Profiler, Precision)
# Lightning's advice on loggers, workers and tuning, which Lamella has followed or does not need.
TALKING = ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric")


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Within it, Lightning says nothing but errors."""
    for name in TALKING:
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="|".join(TALKING))
        yield


def saving_and_chunks(node: Mapping[str, Any]) -> tuple[CheckpointInterval, int | None]:
    """How often a run is saved within an epoch, and the batches of a chunk, None for auto. Raises RequestError."""
    return _every(node.get("checkpoint_every", "5min")), _chunk(node.get("chunk", "auto"))


def _every(text: Any) -> CheckpointInterval:
    """What `trainer.checkpoint_every` says: a number of steps or minutes, or nothing."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *(steps?|min|minutes?)", str(text))
    if text is None:
        return CheckpointInterval()
    if not found or not (number := float(found[1])) or (found[2].startswith("step") and number % 1):
        raise RequestError(
            f"trainer.checkpoint_every is {text!r}; it takes a number with its unit, as 500steps or 5min, or null",
            "trainer.checkpoint_every",
        )
    return CheckpointInterval(steps=number) if found[2].startswith("step") else CheckpointInterval(seconds=60 * number)


def _chunk(size: Any) -> int | None:
    if size != "auto" and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise RequestError(
            f"trainer.chunk is {size!r}; it takes auto, or a number of batches that are trained in one go",
            "trainer.chunk",
        )
    return None if size == "auto" else int(size)


def build_trainer(
    node: Mapping[str, Any],
    visuals: Mapping[str, Any],
    accelerator: str,
    precision: str,
    deterministic: bool,
    make: Callable[[Mapping[str, Any]], Callable[..., Any]],
) -> Callable[..., pl.Trainer]:
    """What makes the Trainer, called with the first callback, the last ones, the last loggers and other arguments.

    make: called with the Trainer's own arguments, gives what makes it. Raises RequestError.
    """
    node = {name: value for name, value in node.items() if name not in ("checkpoint_every", "chunk")}
    strategy = str(node.get("strategy", "auto"))
    if strategy.startswith(("fsdp", "deepspeed")) and accelerator != "cuda":
        raise RequestError(f"trainer.strategy is {strategy!r}, which needs CUDA; use trainer=ddp", "trainer.strategy")
    if node.get("fast_dev_run"):
        raise RequestError(
            "trainer.fast_dev_run leaves no metrics and no checkpoints behind; use trainer=debug",
            "trainer.fast_dev_run",
        )
    lists: dict[str, Mapping[str, Any]] = {"visuals": visuals}
    for name in ("callbacks", "logger"):
        nodes = node.pop(name, None) or []
        if not isinstance(nodes, list):
            raise RequestError(f"trainer.{name} is {nodes!r}; it takes a list", f"trainer.{name}")
        lists[f"trainer.{name}"] = {str(number): item for number, item in enumerate(nodes)}
    for name, items in lists.items():
        for inner, item in items.items():
            check_target(item, f"{name}.{inner}", pl.loggers.Logger if name == "trainer.logger" else pl.Callback)
    if isinstance(node.get("max_epochs"), int) and node["max_epochs"] < 1:
        raise RequestError(f"trainer.max_epochs is {node['max_epochs']}; it takes 1 or more", "trainer.max_epochs")
    for name in ("accumulate_grad_batches", "val_check_interval", "check_val_every_n_epoch"):
        if isinstance(node.get(name), int | float) and node[name] <= 0:
            raise RequestError(f"trainer.{name} is {node[name]}; it takes more than 0", f"trainer.{name}")
    place = {"accelerator": accelerator, "precision": precision, "deterministic": deterministic}
    make_trainer = make({**place, **OPTIONS, **node})

    def made(name: str) -> list[Any]:
        return [instantiate(item, f"{name}.{inner}") for inner, item in lists[name].items()]

    def with_more(first: Checkpoints, last: list[pl.Callback], loggers: list[Any], **more: Any) -> pl.Trainer:
        drawn = [VisualCallbacks(made("visuals"))] if visuals else []
        callbacks = [first, *drawn, *made("trainer.callbacks"), *last]
        # Lightning would add a checkpoint of its own where it finds none.
        more["enable_checkpointing"] = any(isinstance(callback, Checkpoint) for callback in callbacks)
        made_trainer: pl.Trainer = make_trainer(callbacks=callbacks, logger=made("trainer.logger") + loggers, **more)
        return made_trainer

    return with_more


# What Lightning calls a callback for, but not what it keeps for it.
CALLBACK_HOOKS = [name for name in vars(pl.Callback) if name in ("setup", "teardown") or name.startswith("on_")]


class VisualCallbacks(pl.Callback):
    """All pictures as one callback: Lightning calls each callback ten times a step, which is long for a small net."""

    def __init__(self, drawn: list[pl.Callback]) -> None:
        self.drawn = drawn
        for name in CALLBACK_HOOKS:
            hooks = [getattr(one, name) for one in drawn if getattr(type(one), name) is not getattr(pl.Callback, name)]
            if hooks:
                setattr(self, name, partial(_each, hooks))


def _each(hooks: list[Callable[..., Any]], *given: Any, **more: Any) -> None:
    for hook in hooks:
        hook(*given, **more)
