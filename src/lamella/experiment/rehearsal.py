"""Try a run before its directory is made, so that what cannot be trained is refused at once."""

import copy
import gc
import json
import math
import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from itertools import zip_longest

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers.logger import DummyLogger
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from pytorch_lightning.utilities.data import extract_batch_size
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lamella.config.targets import instantiate, resolve_target
from lamella.config.values import Config
from lamella.console import print
from lamella.data.chunk import Batch
from lamella.data.decoder import UnreadableImages
from lamella.data.loaded import loader_length
from lamella.data.text_windows import NextByte
from lamella.errors import RequestError, first_line
from lamella.experiment.blame import refusal
from lamella.experiment.experiment import Experiment
from lamella.experiment.first_and_last import FirstAndLast
from lamella.experiment.first_weights import fit_filters
from lamella.experiment.generation import check_causal
from lamella.experiment.stand_ins import FirstOf, UnwrittenCheckpoint, one_process
from lamella.seeds import kept_random_state
from lamella.training.device import process_count, strategy_kind
from lamella.training.loggers import EpochLogger
from lamella.training.non_finite import NonFiniteLoss
from lamella.training.overfit import check_overfit, overfit_limits
from lamella.training.own_module import defines
from lamella.training.recipe import check_recipe
from lamella.training.task import Task
from lamella.training.trainer import quiet_lightning
from lamella.training.trainer_checks import (
    check_monitors,
    check_options,
    check_processes,
    check_several_optimizers,
    check_suitable,
    check_thaw,
)

LONG = 10.0  # seconds; after a step that takes longer, nothing more is tried
MOST_SCHEDULER_STEPS = 1000  # how many steps of the scheduler are tried, which takes 20 ms


def rehearse(experiment: Experiment, config: Config) -> float:
    """Raise RequestError for what a new run would fail at, or would ignore.

    Returns the seconds of an epoch whose batches take as long as the slowest one here, infinite if none is tried.

    The run is tried for real on its device: the training with the first and the last batch of an epoch, which are the
    largest and the smallest, the validation and the test. That happens with a copy of the network, the optimizer and
    the scheduler, and random generators are put back into their state.
    """
    check_options(config["trainer"])
    if experiment.data.overfit:
        augment = experiment.data.augment
        batches = loader_length(experiment.data.train_dataloader())
        check_overfit(config["trainer"], batches, augment is not None and bool(augment.mixes))
    options = {**config["trainer"], **overfit_limits(config["trainer"])}
    options |= {} if experiment.data.validates else {"limit_val_batches": 0}
    experiment.objective.check(experiment.data.targets[0])
    callbacks = checked_callbacks(options, experiment)
    processes = process_count(options, experiment.device.accelerator)
    if experiment.has_several_optimizers:
        check_several_optimizers(options, processes)
    kind, _ = strategy_kind(options)
    if experiment.weights:
        experiment.weights.load(experiment.outline())
    check_thaw(experiment.freeze, experiment.epochs, issubclass(kind, SingleDeviceStrategy) and processes == 1)
    if not issubclass(kind, SingleDeviceStrategy | DDPStrategy):  # a network that is divided may not fit on one device
        if any(plan.grouping.divides for plan in experiment.optimizers.values()):
            raise RequestError(
                f"optimizer: its groups go by the names and shapes of parameters, and trainer.strategy, "
                f"{kind.__name__}, may divide these; use trainer=ddp",
                "optimizer",
            )
        print(
            f"not tried before the run starts: trainer.strategy is {kind.__name__}, and only auto and DDP can be tried"
        )
        return math.inf
    check_processes(options, processes, experiment.device.accelerator)
    world = processes * options.get("num_nodes", 1)
    experiment.data.check_world(world)
    device, threads = torch.device(experiment.device.accelerator), torch.get_num_threads()
    torch.set_num_threads(experiment.device.threads)
    try:
        with quiet_lightning(), warnings.catch_warnings(), kept_random_state(device):
            warnings.simplefilter("ignore")  # the run itself will show them
            if isinstance(experiment.data.encoder, NextByte) and experiment.kind.is_task:
                check_causal(experiment.task.network, experiment.objective, experiment.data.encoder.length)
            # With sync_batchnorm, the statistics are those of the whole batch.
            trial = _Trial(experiment, options, callbacks, 1 if options.get("sync_batchnorm") else world)
            trial.run()
            return trial.seconds * trial.trainer.num_training_batches
    finally:
        torch.set_num_threads(threads)
        if device.type != "cpu":  # on the CPU this would take longer than the memory is worth
            gc.collect()  # the Trainer and its callback refer to each other
            torch.cuda.empty_cache()


def rehearsal_key(config: Config) -> str:
    """Return a text that is equal for configs of which only one has to be tried.

    It leaves out `name`, `seed`, `monitor`, `visuals` and `data.seed`, and each float in the groups `network`, `task`,
    `loss`, `optimizer` and `scheduler`.
    """
    groups = {name: _without_floats(config.get(name)) for name in ("network", "task", "loss", "optimizer", "scheduler")}
    data = {**config["data"], "seed": None}
    return json.dumps([groups, data, config["device"], config["trainer"], config.get("metrics")], default=str)


def checked_callbacks(options: Config, experiment: Experiment) -> dict[str, pl.Callback]:
    """Return the callbacks of a config that are Lightning's own, by their keys.

    options: the config group `trainer`. Raises RequestError for a callback that cannot work.
    """
    nodes: dict[str, Config] = {
        f"trainer.callbacks.{number}": node for number, node in enumerate(options.get("callbacks") or [])
    }
    targets = [resolve_target(node["_target_"], f"{key}._target_", pl.Callback) for key, node in nodes.items()]
    # A function of the project's own may return any callback. It is not called, and its kind is that of functions.
    kinds = [target if isinstance(target, type) else type(target) for target in targets]
    check_suitable(kinds, experiment.has_several_optimizers)
    check_recipe(experiment.recipe, options, kinds, experiment.monitor, experiment.device.precision, experiment.epochs)
    experiment.recipe.check_task(experiment.kind.is_task, experiment.has_several_optimizers)
    callbacks = {
        key: instantiate(node, key)
        for kind, (key, node) in zip(kinds, nodes.items(), strict=True)
        if kind.__module__.startswith("pytorch_lightning.") or issubclass(kind, EarlyStopping | ModelCheckpoint)
    }
    counted = [] if experiment.kind.has_own_step else experiment.counted  # what a step logs is known after the trial
    check_monitors(kinds, callbacks, options, counted, experiment.lower_is_better)
    return callbacks


def _without_floats(node: object) -> object:
    if isinstance(node, Mapping):
        return {name: _without_floats(value) for name, value in node.items()}
    if isinstance(node, list):
        return [_without_floats(value) for value in node]
    return None if isinstance(node, float) else node


class _Trial(pl.Callback):
    """Trains, validates and tests with a few batches.

    options: the config group `trainer`. callbacks: those that are set up, by their keys. world: the number of processes
    that share a batch, of which this one has the share of the first.
    """

    def __init__(
        self, experiment: Experiment, options: Config, callbacks: Mapping[str, pl.Callback], world: int
    ) -> None:
        self.options, self.callbacks, data = options, callbacks, copy.copy(experiment.data)
        data.chunk, data.num_workers = (lambda number: 1), data.num_workers and 0
        # Its weights are drawn again, so that nothing of the network of the run itself is used.
        self.experiment = replace(experiment, data=data, objective=copy.deepcopy(experiment.objective))
        fit_filters(self.experiment)
        self.metrics = dict[str, float]()
        self.own = self.experiment.callbacks([EpochLogger(self.metrics.update)])
        self.trainer = self.experiment.trainer(
            [self],
            [*self.own],
            [DummyLogger()],  # callbacks and code of the project's own may need a logger
            configured=False,
            plugins=[UnwrittenCheckpoint(self.experiment)],
            limit_val_batches=options.get("limit_val_batches"),
            **one_process(options),
        )
        data.trainer = FirstOf(world, self.trainer)  # type: ignore[assignment]
        self.stage, self.sizes, self.started, self.seconds = "training", list[int](), 0.0, 0.0

    def run(self) -> None:
        """Raise RequestError for what the run would fail at."""
        module, data, trainer = self.experiment.module, self.experiment.data, self.trainer
        try:
            train = FirstAndLast(data.train_dataloader(), self._training_batches)
            # Batches for evaluation are large, and it would take long to decode their images for the trial alone.
            lazily = data.reads_lazily
            val = FirstAndLast(data.val_dataloader(), lambda: sum(trainer.num_val_batches), lazily)
            trainer.fit(module, train_dataloaders=train, val_dataloaders=val)
            logged = set(trainer.callback_metrics)
            if not self.experiment.kind.is_task:
                if not trainer.global_step:
                    raise RequestError(
                        f"task: {self.experiment.kind.title}.training_step takes no step of an optimizer that "
                        "self.optimizers() gives",
                        "task",
                    )
                trainer.save_checkpoint("unwritten")
            if self.seconds > LONG:
                print(f"a step takes {self.seconds:.0f} s, so nothing more is tried before the run starts")
                return
            self._begin("validation")
            if defines(type(module), "validation_step"):
                trainer.validate(module, dataloaders=val, verbose=False)
            self._check_logged(logged | set(trainer.callback_metrics))
            self._begin("test")
            if self.experiment.test:
                test = FirstAndLast(data.test_dataloader(), lambda: sum(trainer.num_test_batches), lazily)
                trainer.test(module, dataloaders=test, verbose=False)
        except (NonFiniteLoss, UnreadableImages):
            # The run itself ends with this error and keeps what it has trained, or names all unreadable files.
            return
        except RequestError:
            raise
        except Exception as error:
            raise refusal(error, self.experiment, self.options, self.stage, self.sizes) from error

    def _check_logged(self, names: set[str]) -> None:
        """Raise RequestError where the monitor, or that of a callback, is not what a step of the project's own logs.

        names: of the values in `trainer.callback_metrics`, among which a callback finds its own.
        """
        if not self.experiment.kind.has_own_step:
            return
        known = {name for name in names if name.startswith(("train/", "val/"))}
        if not self.experiment.kind.is_task:
            known = set[str]().union(self.metrics, *(one.val for one in self.own)) - {"epoch", "seconds"}
        if (monitor := self.experiment.monitor) not in known:
            way = "; write monitor=val/loss" * ("val/loss" in known)
            raise RequestError(
                f"monitor is {monitor!r}; this task gives {', '.join(sorted(known)) or 'nothing'}{way}", "monitor"
            )
        for key, callback in self.callbacks.items():
            awaited = getattr(callback, "monitor", None)
            if awaited is not None and awaited not in names and getattr(callback, "strict", True):
                raise RequestError(
                    f"{key}.monitor is {awaited!r}; this task logs {', '.join(sorted(names)) or 'nothing'}",
                    f"{key}.monitor",
                )

    def _begin(self, stage: str) -> None:
        self.stage, self.sizes = stage, []

    def _training_batches(self) -> float:
        """Return how many training batches the first epoch has in the run."""
        if self.seconds > LONG:
            return 0
        trainer = self.trainer
        steps = trainer.max_steps * self.accumulated if trainer.max_steps >= 0 else trainer.num_training_batches
        return min(trainer.num_training_batches, steps)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Set up the callbacks, some of which find then that they cannot work. Raises RequestError."""
        for key, callback in self.callbacks.items() if stage == "fit" else ():
            try:
                callback.setup(trainer, pl_module, stage)
            except Exception as error:
                raise RequestError(f"{key}: {first_line(error)}", key) from error

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take a step of each optimizer with each batch. Optimizers and schedulers are made for the whole run."""
        self.accumulated, trainer.accumulate_grad_batches = trainer.accumulate_grad_batches, 1
        if isinstance(pl_module, Task):
            plans = pl_module.optimizer_plans.items()
            pl_module.optimizer_plans = {name: replace(plan, every=1) for name, plan in plans}

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, number: int
    ) -> None:
        self.sizes.append(extract_batch_size(batch))
        self.started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: Batch, number: int
    ) -> None:
        self.seconds = max(self.seconds, time.perf_counter() - self.started)
        if not self.experiment.kind.has_own_step:
            self.experiment.objective.check_logarithms(self.experiment.task.network, batch[0])

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Try the steps of the scheduler that are left, and end the training."""
        trainer.should_stop = True
        self.stage = "scheduler"
        lengths = pl_module.schedule_lengths if isinstance(pl_module, Task) else []
        for config, length in zip_longest(trainer.lr_scheduler_configs, lengths):
            if not isinstance(config.scheduler, ReduceLROnPlateau):
                taken = trainer.global_step // len(trainer.optimizers) if config.interval == "step" else 0
                for _ in range(min(length or 0, MOST_SCHEDULER_STEPS) - taken):
                    config.scheduler.step()

    def on_validation_batch_start(self, trainer: object, module: object, batch: Batch, *_: object) -> None:
        self.sizes.append(extract_batch_size(batch))

    def on_test_batch_start(self, trainer: object, module: object, batch: Batch, *_: object) -> None:
        self.sizes.append(extract_batch_size(batch))
