"""The LightningModule by itself: losses, metrics, schedules, from plain Python."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lamella.data import Data, Samples, Splits, digits
from lamella.interrupts import Interrupts
from lamella.torch_internals import ParamGroup
from lamella.training.checkpoint_interval import CheckpointInterval
from lamella.training.checkpointing import Checkpoints
from lamella.training.non_finite import NonFiniteLoss
from lamella.training.objective import Kind, Objective
from lamella.training.optimizers import SINGLE, OptimizerPlan
from lamella.training.parameter_groups import Grouping
from lamella.training.scheduler import Schedule, Scheduler
from lamella.training.task import Task


def constant(optimizer: torch.optim.Optimizer, length: int | None) -> Scheduler:
    return torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)


class Rates(pl.Callback):
    """The learning rate that each step was taken with."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])


def train(task: Task, data: Data, directory: Path, epochs: int = 1, **options: Any) -> tuple[pl.Trainer, list[float]]:
    rates = Rates()
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=epochs, default_root_dir=directory, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, callbacks=[rates], **options,
    )  # fmt: skip
    trainer.fit(task, datamodule=data)
    return trainer, rates.rates


def served(splits: Splits | None = None, **options: Any) -> Data:
    return Data(splits or digits(), [1, 28, 28], 64, 10, mean=[0.3], std=[0.3], **options)


def linear(loss: nn.Module, schedule: Schedule | None = None, kind: Kind = "classes", lr: float = 0.01) -> Task:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))

    def optimizer(parameters: Sequence[ParamGroup]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr)

    ignored = getattr(loss, "ignore_index", -100)
    objective = Objective(loss, kind, ignored=ignored if ignored >= 0 else None)
    task = Task()
    task.attach(network, objective, {SINGLE: OptimizerPlan(Grouping(optimizer))}, schedule or Schedule(constant))
    return task


def everything(task: Task, samples: Samples, data: Data) -> tuple[Tensor, Tensor]:
    assert isinstance(samples.inputs, Tensor)
    assert data.normalize is not None
    with torch.no_grad():
        return task.eval().network(data.normalize(samples.inputs)), samples.targets


@pytest.mark.parametrize(
    "loss",
    [nn.CrossEntropyLoss(ignore_index=3), nn.CrossEntropyLoss(weight=torch.arange(1.0, 11.0), ignore_index=3)],
    ids=["plain", "weighted"],
)
def test_samples_that_do_not_count_are_left_out_of_the_mean(loss: nn.Module, tmp_path: Path) -> None:
    data, task = served(), linear(loss)
    trainer, _ = train(task, data, tmp_path)
    output, targets = everything(task, data.val, data)
    assert float(trainer.callback_metrics["val/loss"]) == pytest.approx(float(loss(output, targets)), rel=1e-6)


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.BCEWithLogitsLoss(), nn.MSELoss()], ids=lambda x: str(x))
def test_validation_metrics_are_those_of_the_whole_set(loss: nn.Module, tmp_path: Path) -> None:
    data, task = served(), linear(loss)
    trainer, _ = train(task, data, tmp_path)
    output, targets = everything(task, data.val, data)
    compared = targets if isinstance(loss, nn.CrossEntropyLoss) else nn.functional.one_hot(targets, 10).float()
    assert float(trainer.callback_metrics["val/loss"]) == pytest.approx(float(loss(output, compared)), rel=1e-6)
    right = float((output.argmax(1) == targets).double().mean())
    assert float(trainer.callback_metrics["val/accuracy"]) == right


def test_several_labels_a_sample_are_judged_one_by_one(tmp_path: Path) -> None:
    source = digits().train
    parity = torch.stack([(source.targets % k == 0).float() for k in range(1, 11)], 1)
    loss = nn.BCEWithLogitsLoss()
    data, task = served(Splits(Samples(source.inputs, parity))), linear(loss, kind="labels")
    trainer, _ = train(task, data, tmp_path)
    output, targets = everything(task, data.val, data)
    right = float(((output > 0) == (targets > 0.5)).double().mean())
    assert float(trainer.callback_metrics["val/accuracy"]) == pytest.approx(right, abs=1e-12)


def test_numbers_to_be_met_are_judged_by_their_distance(tmp_path: Path) -> None:
    source = digits().train
    values = source.targets[:, None].float().expand(-1, 10)
    data, task = served(Splits(Samples(source.inputs, values))), linear(nn.MSELoss(), kind="numbers")
    trainer, _ = train(task, data, tmp_path)
    output, targets = everything(task, data.val, data)
    distance = float((output - targets).abs().mean())
    assert float(trainer.callback_metrics["val/mae"]) == pytest.approx(distance, rel=1e-5)


def test_a_schedule_by_steps_spans_the_run(tmp_path: Path) -> None:
    def cosine(optimizer: torch.optim.Optimizer, length: int | None) -> Scheduler:
        assert length is not None
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, length)

    data, task = served(), linear(nn.CrossEntropyLoss(), Schedule(cosine, "step"))
    _, rates = train(task, data, tmp_path, epochs=2)
    steps = 2 * len(data.train_dataloader())
    assert len(rates) == steps
    expected = [0.005 * (1 + float(torch.cos(torch.tensor(torch.pi * step / steps)))) for step in range(steps)]
    assert rates == pytest.approx(expected, abs=1e-6)


def test_a_schedule_by_epochs_changes_between_them(tmp_path: Path) -> None:
    def halve(optimizer: torch.optim.Optimizer, length: int | None) -> Scheduler:
        return torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)

    data, task = served(), linear(nn.CrossEntropyLoss(), Schedule(halve))
    _, rates = train(task, data, tmp_path, epochs=3)
    steps = len(data.train_dataloader())
    assert rates == [0.01] * steps + [0.005] * steps + [0.0025] * steps


def test_plateau_lowers_the_rate_when_validation_stops_improving(tmp_path: Path) -> None:
    def plateau(optimizer: torch.optim.Optimizer, length: int | None) -> Scheduler:
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=0, threshold=1e9)

    data, task = served(), linear(nn.CrossEntropyLoss(), Schedule(plateau))
    _, rates = train(task, data, tmp_path, epochs=3)
    steps = len(data.train_dataloader())
    assert rates[:steps] == [0.01] * steps
    assert rates[-1] < 0.01


def test_warm_up_is_a_factor_of_what_the_schedule_gives(tmp_path: Path) -> None:
    def cosine(optimizer: torch.optim.Optimizer, length: int | None) -> Any:
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, length or 0, eta_min=1e-3)

    def step(optimizer: torch.optim.Optimizer, length: int | None) -> Any:
        return torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.5)

    data = served()
    for make in (cosine, step):
        _, plain = train(linear(nn.CrossEntropyLoss(), Schedule(make, "step")), data, tmp_path)
        task = linear(nn.CrossEntropyLoss(), Schedule(make, "step", warmup_steps=10))
        _, warmed = train(task, data, tmp_path)
        factors = [min(1, 0.001 + 0.999 * number / 10) for number in range(len(plain))]
        assert warmed == pytest.approx([rate * factor for rate, factor in zip(plain, factors, strict=True)], rel=1e-9)


def test_of_equally_good_epochs_the_lowest_loss_and_then_the_last_counts(tmp_path: Path) -> None:
    def epoch(number: int, accuracy: float, loss: float) -> dict[str, float]:
        return {"epoch": number, "train/loss": 1.0, "val/accuracy": accuracy, "val/loss": loss}

    checkpoints = Checkpoints(tmp_path, "val/accuracy", "max", CheckpointInterval(), Interrupts(lambda: None), {})
    best = []
    for number, (accuracy, loss) in enumerate(
        [(0.5, 1.0), (1.0, 0.5), (1.0, 0.3), (1.0, 0.4), (1.0, 0.3), (0.9, 0)], 1
    ):
        checkpoints.compare(epoch(number, accuracy, loss))
        best.append(checkpoints.best_epoch)
    assert best == [1, 2, 3, 3, 5, 5]


def test_the_loss_of_an_epoch_counts_classes_by_their_weights(tmp_path: Path) -> None:
    loss = nn.CrossEntropyLoss(weight=torch.arange(1.0, 11.0))
    data, task = served(), linear(loss)
    trainer, _ = train(task, data, tmp_path)
    output, targets = everything(task, data.val, data)
    assert float(trainer.callback_metrics["val/loss"]) == pytest.approx(float(loss(output, targets)), rel=1e-6)


def test_a_validation_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    train_samples = digits().train
    assert isinstance(train_samples.inputs, Tensor)
    val = Samples(torch.full((10, 1, 28, 28), float("inf")), torch.zeros(10, dtype=torch.int64))
    floats = Samples(train_samples.inputs / 255, train_samples.targets)
    with pytest.raises(
        NonFiniteLoss, match=r"the loss of the validation is nan after step 23; try a smaller optimizer"
    ):
        train(linear(nn.CrossEntropyLoss()), served(Splits(floats, val), test_size=0.2), tmp_path)


def test_early_stopping_sees_each_validation_within_an_epoch(tmp_path: Path) -> None:
    stop = pl.callbacks.EarlyStopping("val/loss", min_delta=10, patience=1)
    task = linear(nn.CrossEntropyLoss())
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=3, default_root_dir=tmp_path, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, callbacks=[stop],
        val_check_interval=5,
    )  # fmt: skip
    trainer.fit(task, datamodule=served())
    assert trainer.global_step == 10


def test_warm_up_rises_in_a_line_to_the_rate(tmp_path: Path) -> None:
    data, task = served(), linear(nn.CrossEntropyLoss(), Schedule(constant, "epoch", warmup_steps=10))
    _, rates = train(task, data, tmp_path)
    assert rates[:11] == pytest.approx([0.01 * (0.001 + 0.999 * step / 10) for step in range(11)], rel=1e-6)
    assert rates[10:] == pytest.approx([0.01] * len(rates[10:]))


def test_accumulated_batches_are_one_step(tmp_path: Path) -> None:
    data, task = served(), linear(nn.CrossEntropyLoss())
    trainer, rates = train(task, data, tmp_path, accumulate_grad_batches=4)
    assert trainer.global_step == len(rates) == -(-len(data.train_dataloader()) // 4)


def test_frozen_parameters_stay_as_they_are(tmp_path: Path) -> None:
    task = linear(nn.CrossEntropyLoss())
    bias = task.network.get_parameter("1.bias").requires_grad_(False)
    before = bias.clone()
    trainer, _ = train(task, served(), tmp_path)
    assert torch.equal(task.network.get_parameter("1.bias"), before)
    assert sum(len(group["params"]) for group in trainer.optimizers[0].param_groups) == 1


def test_a_loss_that_is_not_finite_names_step_and_rate(tmp_path: Path) -> None:
    task = linear(nn.MSELoss(), lr=1e25)
    with pytest.raises(NonFiniteLoss, match=r"the loss is inf at step 2 \(epoch 1\), with learning rate 1e\+25"):
        train(task, served(), tmp_path)
