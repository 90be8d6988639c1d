"""Check the config group `trainer` of a new run: arguments without effect, and callbacks that cannot work."""

import sys
from collections.abc import Collection, Mapping, Sequence

from pytorch_lightning.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    Callback,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy, Strategy, StrategyRegistry

from lamella.config.values import Config
from lamella.console import print
from lamella.errors import RequestError, nearest
from lamella.network.freeze import Freeze
from lamella.runs.ranking import larger_is_better
from lamella.training.device import strategy_kind

# The arguments of the Trainer that Lamella sets itself, with what to write instead or why there is nothing to set.
SET_BY_LAMELLA = {
    "accelerator": "write device.accelerator",
    "precision": "write device.precision",
    "deterministic": "write device.deterministic",
    "plugins": "device.precision chooses the precision, and Lamella writes the checkpoints",
    "default_root_dir": "a run writes into its own directory",
    "enable_checkpointing": "trainer.checkpoint_every says how often a run is saved",
    "log_every_n_steps": "the metrics are logged after each epoch",
    "use_distributed_sampler": "each process always gets its own part of a batch",
    "overfit_batches": "write trainer.overfit, which also validates with the batches of the training",
    "reload_dataloaders_every_n_epochs": "the samples are read once, at the start",
    "limit_predict_batches": "lamella predict takes all files that it is given",
    "barebones": "it leaves no metrics and no checkpoints behind",
    "enable_autolog_hparams": "the config is in the run directory",
    "model_registry": "the checkpoints are in the run directory",
}
# The callbacks that cannot work in a run, with the way out.
UNSUITABLE: dict[type[Callback], str] = {
    BatchSizeFinder: "compare sizes by a sweep: lamella train -m data.batch_size=32,64,128",
    LearningRateFinder: "lamella find lr finds a rate before the run",
    StochasticWeightAveraging: "it averages the weights after the last checkpoint is saved, so the averages would be "
    "lost; take trainer.swa, or pytorch_lightning.callbacks.EMAWeightAveraging",
    BackboneFinetuning: "it needs a network with the attribute `backbone`; network.freeze names what is not trained",
}
# What Lightning's Trainer, or a chunk, does for a single optimizer alone, with the values that leave it out and the way
# out.
SINGLE_OPTIMIZER: dict[str, tuple[tuple[object, ...], str]] = {
    "gradient_clip_val": ((None, 0), "gradients are not clipped; leave it out"),
    "accumulate_grad_batches": ((None, 1), "each takes its step with one batch; write a larger data.batch_size"),
    "max_steps": ((None, -1), "it would count the steps of all of them; write trainer.max_epochs"),
    "min_steps": ((None,), "it would count the steps of all of them; write trainer.min_epochs"),
    "chunk": ((None, "auto", 1), "they are trained batch by batch; leave it out"),
}
# The strategy for several optimizers: each backward pass gives gradients for the parameters of one of them.
FINDING = "ddp_find_unused_parameters_true"
# What a run logs beside losses and metrics.
LOGGED = ("lr", "grad_norm", "seconds", "samples_per_second", "step")


def check_options(options: Config) -> None:
    """Raise RequestError for an argument of the Trainer that would change nothing, or end the run.

    options: the config group `trainer`.
    """
    for name, hint in SET_BY_LAMELLA.items():
        if name in options:
            raise RequestError(f"trainer.{name}: Lamella sets this argument of the Trainer; {hint}", f"trainer.{name}")
    if not isinstance(test := options.get("test", True), bool):
        raise RequestError(f"trainer.test is {test!r}; it takes true or false", "trainer.test")
    _check_strategy(options)
    if options.get("limit_test_batches") in (0, 0.0) and test:
        raise RequestError(
            "trainer.limit_test_batches is 0, which leaves nothing to test; trainer.test=false trains without a test",
            "trainer.limit_test_batches",
        )


def _check_strategy(options: Config) -> None:
    """Raise RequestError for a strategy that does not exist or cannot train. options: the config group `trainer`."""
    strategy, (kind, start_method) = options.get("strategy", "auto"), strategy_kind(options)
    is_name = isinstance(strategy, str)
    if is_name and kind is Strategy:
        names = [name for name in StrategyRegistry if strategy_kind({"strategy": name})[1] == "popen"]
        hint = nearest(strategy, ["auto", *names])
        raise RequestError(f"trainer.strategy is {strategy!r}; {hint}", "trainer.strategy")
    if start_method != "popen":
        key, value = ("trainer.strategy", strategy) if is_name else ("trainer.strategy.start_method", start_method)
        raise RequestError(
            f"{key} is {value!r}, whose processes do not give back what they have trained; use trainer=ddp", key
        )


def check_processes(options: Config, processes: int, accelerator: str) -> None:
    """Raise RequestError for a number of processes that cannot train. processes: as `process_count` returns it."""
    if processes < 1:
        raise RequestError(f"trainer.devices is {options.get('devices')!r}; it takes 1 or more", "trainer.devices")
    if processes > 1 and options.get("sync_batchnorm") and accelerator == "cpu":
        raise RequestError(
            "trainer.sync_batchnorm is true, which torch supports on a GPU alone", "trainer.sync_batchnorm"
        )


def check_thaw(freeze: Freeze, epochs: int | None, alone: bool) -> None:
    """Raise RequestError if parameters cannot be thawed in the course of a run, and say which never are.

    epochs: of the run, None where something else limits it. alone: whether the run has one process, and no strategy
    that wraps the network.
    """
    thaws = {pattern: last for pattern, last in freeze.items() if last is not None}
    if thaws and not alone:
        raise RequestError(
            "network.freeze: several processes decide at the start of a run which gradients they exchange, so that "
            "nothing\n  can be thawed later; freeze in all epochs, with a list of patterns, or train with one process",
            "network.freeze",
        )
    for pattern, last in thaws.items():
        if epochs is not None and last >= epochs > 0:
            print(
                f"note: network.freeze thaws {pattern} after epoch {last}, and trainer.max_epochs is {epochs}: it is "
                "never trained",
                file=sys.stderr,
            )


def check_suitable(kinds: Sequence[type], several_optimizers: bool = False) -> None:
    """Raise RequestError for a callback that cannot work. kinds: the classes in `trainer.callbacks`."""
    known = [*UNSUITABLE.items()]
    if several_optimizers:
        hint = f"with several optimizers {SINGLE_OPTIMIZER['accumulate_grad_batches'][1]}"
        known.append((GradientAccumulationScheduler, hint))
    for number, kind in enumerate(kinds):
        for unsuitable, hint in known:
            if issubclass(kind, unsuitable):
                raise RequestError(
                    f"trainer.callbacks.{number}: {kind.__name__}: {hint}", f"trainer.callbacks.{number}"
                )


def check_several_optimizers(options: Config, processes: int) -> None:
    """Raise RequestError for what does not work with several optimizers.

    options: the config group `trainer`. processes: as `process_count` returns it.
    """
    for name, (neutral, hint) in SINGLE_OPTIMIZER.items():
        if options.get(name, neutral[0]) not in neutral:
            raise RequestError(
                f"trainer.{name} is {options[name]!r}, which is for a single optimizer; with several ones {hint}",
                f"trainer.{name}",
            )
    strategy, (kind, _) = options.get("strategy", "auto"), strategy_kind(options)
    node = strategy if isinstance(strategy, dict) else {"find_unused_parameters": FINDING in strategy}
    finds = issubclass(kind, DDPStrategy) and node.get("find_unused_parameters")
    if not finds and not (issubclass(kind, SingleDeviceStrategy) and processes == 1):
        raise RequestError(
            f"trainer.strategy is {strategy!r}, which would wait for the gradients of all parameters, and each of "
            f"several optimizers trains some of them;\n  write trainer.strategy={FINDING}",
            "trainer.strategy",
        )


def check_monitors(
    kinds: Sequence[type],
    callbacks: Mapping[str, Callback],
    options: Config,
    counted: Sequence[str],
    lower: Collection[str],
) -> None:
    """Raise RequestError for a callback that waits for a metric that nothing logs, or print that it has a wrong mode.

    kinds: the classes in `trainer.callbacks`. callbacks: callbacks by their keys, of which those are checked that look
    at a metric, EarlyStopping and ModelCheckpoint. options: the config group `trainer`. counted: the names of the
    metrics, without the stage; empty where they are not known yet.
    """
    # A callback of the project's own may log further metrics.
    complete = all(kind.__module__.startswith(("pytorch_lightning.", "lamella.")) for kind in kinds)
    rates = any(issubclass(kind, LearningRateMonitor) for kind in kinds)
    for key, callback in callbacks.items():
        if not isinstance(callback, EarlyStopping | ModelCheckpoint) or callback.monitor is None:
            continue
        name, monitor, logged = type(callback).__name__, callback.monitor, _logged(callback, key, options, counted)
        known = monitor in logged or (rates and monitor.startswith("lr-"))
        if counted and complete and not known and getattr(callback, "strict", True):
            hint = nearest(monitor, logged)
            hint = hint if "did you mean" in hint else f"it takes {', '.join(logged)}"
            raise RequestError(
                f"{key}.monitor is {monitor!r}, which is not logged when {name} looks for it; {hint}",
                f"{key}.monitor",
            )
        mode = "max" if larger_is_better(monitor, lower) else "min"
        if monitor.startswith(("train/", "val/")) and callback.mode != mode:
            takes = "smaller" if mode == "max" else "larger"
            print(
                f"note: {key}.mode is {callback.mode!r}, so that {name} takes a {takes} {monitor} for the better one; "
                f"write mode: {mode}",
                file=sys.stderr,
            )


def _logged(callback: EarlyStopping | ModelCheckpoint, key: str, options: Config, counted: Sequence[str]) -> list[str]:
    """Return the metrics that are logged when a callback with this key looks for its metric the first time."""
    train = [*(f"train/{name}" for name in counted), *LOGGED]
    val = [f"val/{name}" for name in counted] if options.get("limit_val_batches") not in (0, 0.0) else []
    if isinstance(callback, ModelCheckpoint):
        return [*val, *train, "epoch"]
    every, interval = options.get("check_val_every_n_epoch", 1), options.get("val_check_interval") or 1.0
    at_epoch_end = options["callbacks"][int(key.rpartition(".")[2])].get("check_on_train_epoch_end")
    if at_epoch_end is None:
        at_epoch_end = isinstance(interval, float) and interval == 1.0 and every == 1
    if not at_epoch_end:  # after each validation
        return val
    return [*val, *train] if every == 1 or every is None else train
