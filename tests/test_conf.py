"""The configs that come with Lamella: each option of each group composes and trains."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import Lamella, Result

from lamella.config.files import SHIPPED

OPTIONS = sorted(str(path.relative_to(SHIPPED).with_suffix("")) for path in SHIPPED.glob("*/*.yaml"))
CHOICES = [option for option in OPTIONS if not option.endswith("/default") or option == "trainer/default"]
MNIST_LIKE = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}
BATCH = ("+trainer.limit_train_batches=2", "+trainer.limit_val_batches=1", "trainer.max_epochs=1", "data.val_size=60")
ONE_TEST = "+trainer.limit_test_batches=1"


def finished(result: Result) -> dict[str, Any]:
    """Return the record of the run that a command has finished last, with its directory as `path`."""
    assert result.status == 0, result.err
    path = max(Path("outputs").rglob("run.json"), key=lambda file: file.stat().st_mtime)
    run = json.loads(path.read_text())
    assert run["status"] == "finished"
    return {**run, "path": path.parent}


def weights(run: dict[str, Any]) -> dict[str, torch.Tensor]:
    checkpoint: dict[str, dict[str, torch.Tensor]] = torch.load(
        run["path"] / "checkpoints/last.ckpt", weights_only=True
    )
    return checkpoint["state_dict"]


@pytest.mark.parametrize("option", CHOICES)
@pytest.mark.slow
def test_every_option_composes(lamella: Lamella, option: str) -> None:
    group, _, name = option.partition("/")
    result = lamella("train", f"{group}={name}", "--cfg", "job")
    assert result.status == 0, result.err
    composed = yaml.safe_load(result.out)
    assert {"data", "network", "loss", "optimizer", "scheduler", "device", "trainer"} <= set(composed)


# What a hand-written class of each network has: weights and biases of its layers, and two numbers a channel in a norm.
PARAMETERS = {
    "mlp": 118_794,
    "linear": 7_850,
    "neural_network": 669_706,
    "cnn": 421_834,
    "resnet": 77_754,
    "whitened_cnn": 1_963_272,  # without the fixed filters of Whitening2d, 8 of 2×2 pixels
}


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.slow
def test_every_network_trains(lamella: Lamella, name: str) -> None:
    run = finished(lamella("train", f"network={name}", *BATCH, ONE_TEST))
    assert (run["parameters"], run["steps"]) == (PARAMETERS[name], 2)
    assert run["choices"]["network"] == name


@pytest.mark.slow
@pytest.mark.parametrize("name", MNIST_LIKE)
def test_every_data_set_in_mnist_format_trains(lamella: Lamella, mnist_root: Path, name: str) -> None:
    shutil.copytree(mnist_root / "MNIST", Path("data") / MNIST_LIKE[name])
    run = finished(lamella("train", f"data={name}", "network=linear", *BATCH))
    right = run["metrics"]["test/accuracy"] * 100  # of the images that are there to test on
    assert right == pytest.approx(round(right))
    assert run["steps"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((SHIPPED / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_runs_for_a_batch(lamella: Lamella, mnist_root: Path, path: Path, image_root: Path) -> None:
    assert path.read_text().startswith("# @package _global_\n")
    root = [f"data.root={mnist_root}"] if "data: mnist" in path.read_text() else []
    if path.stem == "fashion_cnn":
        root = ["data=mnist", f"data.root={mnist_root}"]
    if path.stem in (
        "cifar10_resnet",
        "cifar10_fast",
        "finetune",
    ):  # finetune begins with weights in test_shipped_recipes.py
        root = ["data=image_folder", "data.shape=[3,32,32]", f"data.root={image_root}", "network.weights=null"]
    result = lamella("train", f"experiment={path.stem}", *BATCH, ONE_TEST, *root)
    assert result.status == 0, result.err


def test_debug_trains_a_few_batches(lamella: Lamella) -> None:
    result = lamella("train", "trainer=debug")
    assert result.status == 0, result.err
    assert "best epoch  1 of 1" in result.out


@pytest.mark.slow
def test_mixed_precision(lamella: Lamella) -> None:
    losses = {}
    for precision in ("32-true", "bf16-mixed"):
        run = finished(lamella("train", f"device.precision={precision}", f"name={precision}", *BATCH))
        assert {value.dtype for value in weights(run).values() if value.is_floating_point()} == {torch.float32}
        losses[precision] = run["metrics"]["train/loss"]
    assert losses["bf16-mixed"] == pytest.approx(losses["32-true"], rel=1e-2)
    assert losses["bf16-mixed"] != losses["32-true"]


def test_accumulated_batches_are_one_step(lamella: Lamella) -> None:
    assert finished(lamella("train", "trainer.accumulate_grad_batches=3", *BATCH))["steps"] == 1


def test_clipping_limits_the_norm_of_the_gradient(lamella: Lamella) -> None:
    options = (
        "optimizer=sgd",
        "optimizer.lr=1",
        "optimizer.momentum=0",
        "network=linear",
        "+trainer.limit_val_batches=1",
        "+trainer.limit_train_batches=1",
        "trainer.max_epochs=1",
        "trainer.gradient_clip_val=0.5",
    )
    trained = weights(finished(lamella("train", *options)))
    torch.manual_seed(0)
    layer = torch.nn.Linear(784, 10)
    steps = [trained[f"network.1.{name}"] - value for name, value in layer.state_dict().items()]
    assert float(torch.cat([step.flatten() for step in steps]).norm()) == pytest.approx(0.5, rel=1e-4)


def test_early_stopping_is_a_callback_of_lightning(lamella: Lamella) -> None:
    stop = "{_target_: pytorch_lightning.callbacks.EarlyStopping, monitor: val/loss, patience: 1, min_delta: 10}"
    result = lamella("train", f"trainer.callbacks=[{stop}]", "network=linear")
    assert result.status == 0, result.err
    assert "best epoch  " in result.out
    assert " of 2  val" in result.out


@pytest.mark.slow
def test_epochs_without_validation_are_not_compared(lamella: Lamella) -> None:
    result = lamella("train", "network=linear", "trainer.max_epochs=3", "+trainer.check_val_every_n_epoch=2")
    assert result.status == 0, result.err
    assert "best epoch  2 of 3  val loss" in result.out
    assert lamella("train", "network=linear", "trainer.max_epochs=1", "+trainer.limit_val_batches=0").status == 0


def test_without_validation_the_last_epoch_is_the_best(lamella: Lamella) -> None:
    result = lamella("train", "network=linear", "trainer.max_epochs=3", "+trainer.limit_val_batches=0")
    assert result.status == 0, result.err
    assert "best epoch  3 of 3" in result.out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheduler", "rates"),
    [
        ("{_target_: torch.optim.lr_scheduler.MultiStepLR, milestones: [1]}", [1e-3, 1e-4]),
        (
            "{_target_: torch.optim.lr_scheduler.CyclicLR, base_lr: 1e-4, max_lr: 1e-3, step_size_up: 2,"
            " cycle_momentum: false}",
            [1e-4, 5.5e-4],
        ),
    ],
    ids=["multi-step", "cyclic"],
)
def test_schedulers_of_torch_are_targets(lamella: Lamella, scheduler: str, rates: list[float]) -> None:
    Path("conf/scheduler").mkdir(parents=True)
    Path("conf/scheduler/own.yaml").write_text(scheduler)
    run = finished(lamella("train", "scheduler=own", "network=linear", "trainer.max_epochs=2"))
    lines = (run["path"] / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["lr"] for line in lines] == pytest.approx(rates)


@pytest.mark.slow
def test_time_may_be_the_only_limit(lamella: Lamella) -> None:
    result = lamella("train", "network=linear", "trainer.max_epochs=null", "+trainer.max_time=00:00:00:01")
    run = finished(result)
    assert f" of {run['epochs']}  val loss" in result.out
    assert run["epochs"] > 1
    assert yaml.safe_load((run["path"] / "config.yaml").read_text())["trainer"]["max_epochs"] is None


def test_limits_that_leave_nothing_to_do_are_refused(lamella: Lamella) -> None:
    result = lamella("train", "network=linear", "+trainer.limit_train_batches=0")
    assert result.status == 2
    assert "error: trainer: its limits leave no step to take" in result.err
    assert not list(Path("outputs").rglob("run.json"))
