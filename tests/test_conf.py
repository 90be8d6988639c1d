"""The configs that come with Lamella: each option of each group composes and trains."""

import shutil
from pathlib import Path

import pytest
import yaml
from conftest import Lamella

from lamella.config.files import SHIPPED

OPTIONS = sorted(str(path.relative_to(SHIPPED).with_suffix("")) for path in SHIPPED.glob("*/*.yaml"))
CHOICES = [option for option in OPTIONS if not option.endswith("/default") or option == "trainer/default"]
MNIST_LIKE = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}
BATCH = ("+trainer.limit_train_batches=2", "+trainer.limit_val_batches=1", "trainer.max_epochs=1", "data.val_size=20")


@pytest.mark.parametrize("option", CHOICES)
def test_every_option_composes(lamella: Lamella, option: str) -> None:
    group, _, name = option.partition("/")
    result = lamella("train", f"{group}={name}", "--cfg", "job")
    assert result.status == 0, result.err
    composed = yaml.safe_load(result.out)
    assert {"data", "network", "loss", "optimizer", "scheduler", "device", "trainer"} <= set(composed)


@pytest.mark.parametrize(
    "option", [option for option in CHOICES if option.split("/")[0] in ("loss", "optimizer", "scheduler")]
)
def test_every_loss_optimizer_and_scheduler_trains(lamella: Lamella, option: str) -> None:
    result = lamella("train", option.replace("/", "="), *BATCH)
    assert result.status == 0, result.err
    assert "test        loss" in result.out


@pytest.mark.parametrize("name", ["mlp", "linear", "neural_network", "cnn", "resnet"])
def test_every_network_trains(lamella: Lamella, name: str) -> None:
    assert lamella("train", f"network={name}", *BATCH).status == 0


@pytest.mark.parametrize("name", MNIST_LIKE)
def test_every_data_set_in_mnist_format_trains(lamella: Lamella, mnist_root: Path, name: str) -> None:
    shutil.copytree(mnist_root / "MNIST", Path("data") / MNIST_LIKE[name])
    result = lamella("train", f"data={name}", "network=linear", *BATCH)
    assert result.status == 0, result.err


@pytest.mark.parametrize("path", sorted((SHIPPED / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_runs_for_a_batch(lamella: Lamella, mnist_root: Path, path: Path) -> None:
    assert path.read_text().startswith("# @package _global_\n")
    root = [f"data.root={mnist_root}"] if "data: mnist" in path.read_text() else []
    result = lamella("train", f"experiment={path.stem}", *BATCH, *root)
    assert result.status == 0, result.err


def test_debug_trains_a_few_batches(lamella: Lamella) -> None:
    result = lamella("train", "trainer=debug")
    assert result.status == 0, result.err
    assert "best epoch  1 of 1" in result.out


def test_mixed_precision_and_clipping_and_accumulation(lamella: Lamella) -> None:
    result = lamella("train", "device.precision=bf16-mixed", "trainer.accumulate_grad_batches=3", *BATCH)
    assert result.status == 0, result.err
    assert lamella("train", "trainer.gradient_clip_val=0.5", *BATCH).status == 0


def test_early_stopping_is_a_callback_of_lightning(lamella: Lamella) -> None:
    stop = "{_target_: pytorch_lightning.callbacks.EarlyStopping, monitor: val/loss, patience: 1, min_delta: 10}"
    result = lamella("train", f"trainer.callbacks=[{stop}]", "network=linear")
    assert result.status == 0, result.err
    assert "best epoch  " in result.out
    assert " of 2  val" in result.out


def test_epochs_without_validation_are_not_compared(lamella: Lamella) -> None:
    result = lamella("train", "network=linear", "trainer.max_epochs=3", "+trainer.check_val_every_n_epoch=2")
    assert result.status == 0, result.err
    assert "best epoch  2 of 3  val loss" in result.out
    assert lamella("train", "network=linear", "trainer.max_epochs=1", "+trainer.limit_val_batches=0").status == 0


def test_without_validation_the_last_epoch_is_the_best(lamella: Lamella) -> None:
    result = lamella("train", "network=linear", "trainer.max_epochs=3", "+trainer.limit_val_batches=0")
    assert result.status == 0, result.err
    assert "best epoch  3 of 3" in result.out


@pytest.mark.parametrize(
    "scheduler",
    [
        "{_target_: torch.optim.lr_scheduler.MultiStepLR, milestones: [1]}",
        "{_target_: torch.optim.lr_scheduler.CyclicLR, base_lr: 1e-4, max_lr: 1e-3, cycle_momentum: false}",
    ],
)
def test_schedulers_of_torch_are_targets(lamella: Lamella, scheduler: str) -> None:
    Path("conf/scheduler").mkdir(parents=True)
    Path("conf/scheduler/own.yaml").write_text(scheduler)
    result = lamella("train", "scheduler=own", "network=linear", "trainer.max_epochs=2")
    assert result.status == 0, result.err


def test_time_may_be_the_only_limit(lamella: Lamella) -> None:
    result = lamella("train", "network=linear", "trainer.max_epochs=null", "+trainer.max_time=00:00:00:02")
    assert result.status == 0, result.err


def test_limits_that_leave_nothing_to_do_are_refused(lamella: Lamella) -> None:
    result = lamella("train", "network=linear", "+trainer.limit_train_batches=0")
    assert result.status == 2
    assert "error: trainer: its limits leave no step to take" in result.err
    assert not list(Path("outputs").rglob("run.json"))
