"""Choose the order of a network's numbers in memory: that of PyTorch, or channels last, with which many kernels run."""

import copy
import math
import time
from dataclasses import replace

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers.logger import DummyLogger
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy

from lamella.config.values import Config
from lamella.console import print
from lamella.data.chunk import Batch
from lamella.errors import RequestError, first_line
from lamella.experiment.experiment import Experiment
from lamella.experiment.first_and_last import FirstAndLast
from lamella.experiment.stand_ins import FirstOf, one_process
from lamella.seeds import kept_random_state
from lamella.training.device import process_count, strategy_kind
from lamella.training.task import Task
from lamella.training.trainer import quiet_lightning

KEY = "device.channels_last"
FORMATS = (torch.contiguous_format, torch.channels_last)
MARGIN = 0.95  # channels last is chosen if a step takes at most this share of the time, which differs from run to run
SECONDS, ROUNDS = 1.0, (3, 30)  # a measurement ends after so much time, but has at least and at most so many rounds


def check_memory_format(experiment: Experiment) -> None:
    """Raise RequestError where `device.channels_last` has no effect, or where Lamella cannot apply it."""
    wanted = experiment.device.channels_last
    if wanted is False:
        return
    value = "auto" if wanted is None else "true"
    if not experiment.kind.is_task:
        raise RequestError(
            f"{KEY} is {value}, but {experiment.kind.title} is no lamella.Task; call "
            "self.to(memory_format=torch.channels_last)\n  in its constructor instead",
            KEY,
        )
    if wanted and not _has_images(experiment):
        raise RequestError(
            f"{KEY} is true, which has no effect on this network: it has no weights of four dimensions, as those of "
            f"Conv2d;\n  write {KEY}=false",
            KEY,
        )


def with_memory_format(experiment: Experiment, config: Config) -> tuple[Experiment, Config]:
    """Return an experiment and its config with the faster memory format where `device.channels_last` is auto.

    The steps of both formats are measured with the first batch of the training, in turn, with a copy of the network.
    Random generators are put back into their state.
    """
    device = experiment.device
    if config["device"].get("channels_last") != "auto":
        return experiment, config
    chosen = device.channels_last
    if chosen is None:
        chosen = _has_images(experiment) and _is_faster(experiment, config["trainer"])
    config = {**config, "device": {**config["device"], "channels_last": chosen}}
    return replace(experiment, device=replace(device, channels_last=chosen)), config


def _has_images(experiment: Experiment) -> bool:
    """Return True if the network has weights that channels last puts into another order."""
    return any(parameter.dim() == 4 for parameter in experiment.outline().parameters())


def _is_faster(experiment: Experiment, options: Config) -> bool:
    """Return True if a step is faster with channels last, and print the times. options: the config group `trainer`."""
    kind, _ = strategy_kind(options)
    known = issubclass(kind, SingleDeviceStrategy | DDPStrategy)
    if not known or experiment.has_several_optimizers:
        reason = "several optimizers take turns" if known else f"trainer.strategy is {kind.__name__}"
        print(f"{KEY} is auto: false, without a measurement, because {reason}")
        return False
    accelerator = experiment.device.accelerator
    try:
        with quiet_lightning(), kept_random_state(torch.device(accelerator)):
            usual, last = _Steps(experiment, options).measure()
    except Exception as error:
        print(f"{KEY} is auto: false, because a step with it fails: {first_line(error)}")
        return False
    chosen = last <= MARGIN * usual
    print(
        f"{KEY} is auto: {str(chosen).lower()}, a step takes {1e3 * last:.3g} ms with it and {1e3 * usual:.3g} ms "
        "without"
    )
    return chosen


class _Steps(pl.Callback):
    """Measures training steps of an experiment with a copy of its network. options: the config group `trainer`."""

    def __init__(self, experiment: Experiment, options: Config) -> None:
        data = copy.copy(experiment.data)
        data.chunk, data.num_workers = (lambda number: 1), data.num_workers and 0
        self.experiment = replace(experiment, data=data, objective=copy.deepcopy(experiment.objective))
        self.seconds = [math.inf for _ in FORMATS]
        self.trainer = experiment.trainer(
            [self], [], [DummyLogger()], configured=False, limit_val_batches=0, **one_process(options)
        )
        world = process_count(options, experiment.device.accelerator)
        data.trainer = FirstOf(world, self.trainer)  # type: ignore[assignment]

    def measure(self) -> list[float]:
        """Return the seconds of the fastest step with each of FORMATS."""
        batches = FirstAndLast(self.experiment.data.train_dataloader(), lambda: 1)
        self.trainer.fit(self.experiment.module, train_dataloaders=batches)
        return self.seconds

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: Batch, number: int
    ) -> None:
        """Take turns with the formats, so that what else the machine does slows both of them."""
        assert isinstance(pl_module, Task)
        trainer.should_stop, begun, (least, most) = True, time.perf_counter(), ROUNDS
        for done in range(most):
            if done >= least and time.perf_counter() - begun > SECONDS:
                return
            for index, memory_format in enumerate(FORMATS):
                pl_module.network.to(memory_format=memory_format)
                # The first step brings the weights into the caches.
                taken = [self._step(trainer, pl_module, batch) for _ in range(2)]
                self.seconds[index] = min(self.seconds[index], taken[1])

    def _step(self, trainer: pl.Trainer, task: Task, batch: Batch) -> float:
        """Return the seconds that the forward and backward passes of a batch take."""
        begun = time.perf_counter()
        with trainer.precision_plugin.train_step_context():
            loss = task.step(batch)["loss"]
        torch.autograd.backward(loss)
        if task.device.type != "cpu":
            getattr(torch, task.device.type).synchronize()
        seconds = time.perf_counter() - begun
        task.zero_grad()
        return seconds
