"""Try a run before its directory is made, so that what cannot be trained is refused at once."""

import copy
import gc
import json
import re
import time
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from lamella.config.targets import instantiate, resolve_target
from lamella.config.values import Config
from lamella.console import print
from lamella.data.chunk import Batch
from lamella.data.decoder import UnreadableImages
from lamella.data.text_windows import NextByte
from lamella.errors import RequestError, first_line, own_frames
from lamella.experiment.experiment import Experiment
from lamella.experiment.first_and_last import FirstAndLast
from lamella.experiment.generation import check_causal
from lamella.seeds import kept_random_state
from lamella.training.device import is_out_of_memory, process_count, strategy_kind
from lamella.training.loggers import EpochLogger
from lamella.training.non_finite import NonFiniteLoss
from lamella.training.trainer import quiet_lightning
from lamella.training.trainer_checks import (
    check_monitors,
    check_options,
    check_processes,
    check_recipe,
    check_suitable,
)

LONG = 10.0  # seconds; after a step that takes longer, nothing more is tried
MOST_SCHEDULER_STEPS = 1000  # how many steps of the scheduler are tried, which takes 20 ms


def rehearse(experiment: Experiment, config: Config) -> None:
    """Raise RequestError for what a new run would fail at, or would ignore.

    The run is tried for real on its device: the training with the first and the last batch of an epoch, which are the
    largest and the smallest, the validation and the test. That happens with a copy of the network, the optimizer and
    the scheduler, and random generators are put back into their state.
    """
    validates = len(experiment.data.val) > 0
    options = config["trainer"] if validates else {**config["trainer"], "limit_val_batches": 0}
    check_options(options)
    experiment.objective.check(experiment.data.train.targets)
    callbacks = _checked_callbacks(options, experiment)
    kind, _ = strategy_kind(options)
    if not issubclass(kind, SingleDeviceStrategy | DDPStrategy):  # a network that is divided may not fit on one device
        print(
            f"not tried before the run starts: trainer.strategy is {kind.__name__}, and only auto and DDP can be tried"
        )
        return
    processes = process_count(options, experiment.device.accelerator)
    check_processes(options, processes, experiment.device.accelerator)
    world = processes * options.get("num_nodes", 1)
    experiment.data.check_world(world)
    device, threads = torch.device(experiment.device.accelerator), torch.get_num_threads()
    torch.set_num_threads(experiment.device.threads)
    try:
        with quiet_lightning(), warnings.catch_warnings(), kept_random_state(device):
            warnings.simplefilter("ignore")  # the run itself will show them
            if isinstance(experiment.data.encoder, NextByte):
                check_causal(experiment.task.network, experiment.objective, experiment.data.encoder.length)
            # With sync_batchnorm, the statistics are those of the whole batch.
            _Trial(experiment, options, callbacks, 1 if options.get("sync_batchnorm") else world).run()
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


def _checked_callbacks(options: Config, experiment: Experiment) -> dict[str, pl.Callback]:
    """Return the callbacks of a config that are Lightning's own, by their keys.

    options: the config group `trainer`. Raises RequestError for a callback that cannot work.
    """
    nodes: dict[str, Config] = {
        f"trainer.callbacks.{number}": node for number, node in enumerate(options.get("callbacks") or [])
    }
    targets = [resolve_target(node["_target_"], f"{key}._target_", pl.Callback) for key, node in nodes.items()]
    # A function of the project's own may return any callback. It is not called, and its kind is that of functions.
    kinds = [target if isinstance(target, type) else type(target) for target in targets]
    check_suitable(kinds)
    check_recipe(experiment.recipe, options, kinds, experiment.monitor, experiment.device.precision, experiment.epochs)
    callbacks = {
        key: instantiate(node, key)
        for kind, (key, node) in zip(kinds, nodes.items(), strict=True)
        if kind.__module__.startswith("pytorch_lightning.") or issubclass(kind, EarlyStopping | ModelCheckpoint)
    }
    check_monitors(kinds, callbacks, options, experiment.counted, experiment.lower_is_better)
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
        devices = options.get("devices")
        self.trainer = self.experiment.trainer(
            [self],
            [],
            [EpochLogger(lambda metrics: None)],  # some callbacks refuse to work without a logger
            configured=False,
            **{name: None for name in ("min_epochs", "min_steps", "max_time", "profiler") if name in options},
            limit_val_batches=options.get("limit_val_batches"),
            strategy="auto",
            devices=devices[:1] if isinstance(devices, list) else 1,
            num_nodes=1,
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=0,
        )
        data.trainer = SimpleNamespace(  # type: ignore[assignment]
            global_rank=0, world_size=world, current_epoch=0, overfit_batches=0, strategy=self.trainer.strategy
        )
        self.stage, self.sizes, self.started, self.seconds = "training", list[int](), 0.0, 0.0

    def run(self) -> None:
        """Raise RequestError for what the run would fail at."""
        task, data, trainer = self.experiment.task, self.experiment.data, self.trainer
        try:
            train = FirstAndLast(data.train_dataloader(), self._training_batches)
            # Batches for evaluation are large, and it would take long to decode their images for the trial alone.
            files = not isinstance(data.train.inputs, Tensor)
            val = FirstAndLast(data.val_dataloader(), lambda: sum(trainer.num_val_batches), files)
            test = FirstAndLast(data.test_dataloader(), lambda: sum(trainer.num_test_batches), files)
            trainer.fit(task, train_dataloaders=train, val_dataloaders=val)
            logged = set(trainer.callback_metrics)
            if self.seconds > LONG:
                print(f"a step takes {self.seconds:.0f} s, so nothing more is tried before the run starts")
                return
            self._begin("validation")
            trainer.validate(task, dataloaders=val, verbose=False)
            self._check_monitor(logged | set(trainer.callback_metrics))
            self._begin("test")
            if self.experiment.test:
                trainer.test(task, dataloaders=test, verbose=False)
        except (NonFiniteLoss, UnreadableImages):
            # The run itself ends with this error and keeps what it has trained, or names all unreadable files.
            return
        except RequestError:
            raise
        except Exception as error:
            raise self._refusal(error) from error

    def _check_monitor(self, logged: set[str]) -> None:
        """Raise RequestError if a step of the project's own does not give the metric that decides on the best epoch."""
        known = [name for name in logged if name.startswith(("train/", "val/"))]
        if self.experiment.task.has_own_step and (monitor := self.experiment.monitor) not in known:
            raise RequestError(f"monitor is {monitor!r}; this task gives {', '.join(sorted(known))}", "monitor")

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
        """Take an optimizer step with each batch. The optimizer and the scheduler have been made for the whole run."""
        self.accumulated, trainer.accumulate_grad_batches = trainer.accumulate_grad_batches, 1

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, number: int
    ) -> None:
        self.sizes.append(len(batch[1]))
        self.started = time.perf_counter()

    def on_train_batch_end(self, *_: object) -> None:
        self.seconds = max(self.seconds, time.perf_counter() - self.started)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Try the steps of the scheduler that are left, and end the training."""
        trainer.should_stop = True
        self.stage = "scheduler"
        for config in trainer.lr_scheduler_configs:
            if not isinstance(config.scheduler, ReduceLROnPlateau):
                taken = trainer.global_step if config.interval == "step" else 0
                for _ in range(min(self.experiment.task.schedule_length or 0, MOST_SCHEDULER_STEPS) - taken):
                    config.scheduler.step()

    def on_validation_batch_start(self, trainer: object, module: object, batch: Batch, *_: object) -> None:
        self.sizes.append(len(batch[1]))

    def on_test_batch_start(self, trainer: object, module: object, batch: Batch, *_: object) -> None:
        self.sizes.append(len(batch[1]))

    def _refusal(self, error: Exception) -> RequestError:
        """Return the error for the request, which names the key that is to blame."""
        message, place = first_line(error), own_frames(error)
        if not self.sizes:  # the Trainer has refused an argument before the first batch
            named = [name for name in re.findall(r"`(\w+)", message) if name in self.options]
            key = f"trainer.{named[0]}" if named else "trainer"
            value = f" is {self.options[named[0]]}" if named else ""
            return RequestError(f"{key}{value}: {message}{place}", key)
        key, culprit = self._culprit(error)
        if self.stage == "scheduler":
            return RequestError(f"{key}: {culprit} cannot take all the steps of the run: {message}{place}", key)
        size, largest = self.sizes[-1], self.sizes[0]
        failure = f"{culprit} fails on a {self.stage} batch of {size} sample{'s' * (size != 1)}: {message}"
        if is_out_of_memory(error):
            failure, smaller = f"out of memory on {self.experiment.device.accelerator}: {failure}", False
        else:
            smaller = self.stage == "training" and size < largest
            if not smaller and (self.stage != "training" or size > 1):
                return RequestError(f"{key}: {failure}{place}", key)
        hint = ";\n  with another size or data.drop_last=true there is no such batch" if smaller else ""
        key = "data.batch_size"
        return RequestError(f"{key} is {self.experiment.data.batch_size}: {failure}{hint}{place}", key)

    def _culprit(self, error: Exception) -> tuple[str, str]:
        """Return the config key of what has raised an error, and its name."""
        task = self.experiment.task
        names = {id(module): name for name, module in task.network.named_modules()}
        found = "trainer", "the Trainer"
        for frame, _ in traceback.walk_tb(error.__traceback__):
            owner = frame.f_locals.get("self")
            if frame.f_code.co_name == "backward":
                found = "network", "the backward pass"
            elif owner is task and task.has_own_step and frame.f_code.co_name == "step":
                found = "task", f"{type(task).__name__}.step"
            elif owner is task.loss:
                found = "loss", type(owner).__name__
            elif isinstance(owner, Optimizer):
                found = "optimizer", type(owner).__name__
            elif isinstance(owner, LRScheduler):
                found = "scheduler", type(owner).__name__
            elif isinstance(owner, nn.Module) and id(owner) in names:
                name = names[id(owner)]
                found = "network", f"{type(owner).__name__}{f' at {name}' if name else ''}"
        return found
