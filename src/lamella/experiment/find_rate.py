"""Try the learning rates of an experiment, without a run directory."""

import copy
from dataclasses import replace

from pytorch_lightning.loggers.logger import DummyLogger

from lamella.config.values import Config
from lamella.errors import RequestError
from lamella.experiment.experiment import Experiment
from lamella.experiment.first_weights import set_first_weights
from lamella.experiment.stand_ins import one_process
from lamella.training.freezing import Freezing
from lamella.training.non_finite import NonFiniteLoss
from lamella.training.range_test import STEPS, LossCurve, RangeTest, rising_rates
from lamella.training.trainer import quiet_lightning


def check_range_test(experiment: Experiment) -> None:
    """Raise RequestError for an experiment that has no single learning rate to be found."""
    if not experiment.kind.is_task:
        raise RequestError(
            f"task: {experiment.kind.title} is a LightningModule that makes its optimizers itself, so that their rates "
            "cannot be tried; compare rates by a sweep",
            "task",
        )
    if experiment.has_several_optimizers:
        first = next(iter(experiment.optimizers))
        raise RequestError(
            f"optimizer: {' and '.join(experiment.optimizers)} take turns, and the best rate of one depends on that of "
            f"the other;\n  compare rates by a sweep: lamella train -m optimizer.{first}.lr=1e-4,1e-3",
            "optimizer",
        )
    if experiment.device.channels_last is None:
        raise RequestError(
            "device.channels_last is auto, which is measured when a run begins; write true or false",
            "device.channels_last",
        )


def run_range_test(experiment: Experiment, options: Config) -> LossCurve:
    """Train a new network while the learning rate rises, and return the losses.

    It is trained as in a run, by one process and without the scheduler, the average and the callbacks of the config.
    options: the config group `trainer`.
    """
    data = copy.copy(experiment.data)
    data.chunk, data.tests = (lambda number: 1), False
    trial = replace(experiment, schedule=rising_rates(), data=data)
    test = RangeTest()
    with quiet_lightning():
        trial.device.make_double(trial.module)
        set_first_weights(trial)
        trainer = trial.trainer(
            [test],
            [Freezing(trial.freeze)] if trial.thaws else [],
            [DummyLogger()],
            configured=False,
            max_epochs=-1,
            max_steps=STEPS,
            limit_val_batches=0,
            **one_process(options),
        )
        try:
            trainer.fit(trial.module, datamodule=data)
        except NonFiniteLoss:
            test.curve.diverged = True
    return test.curve
