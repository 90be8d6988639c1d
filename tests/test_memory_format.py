"""`device.channels_last`: the same results in another order in memory, chosen by measurement and kept in the record."""

import json
from pathlib import Path

import kill
import programs
import pytest
import torch
import yaml
from conftest import OWN_MODULE, Lamella, Project
from test_resume import run_in

import lamella as package
from lamella.data import digits
from lamella.runs.checkpoints import read_weights

CNN = ("network=cnn", "network.widths=[4,8]", "network.dropout=0", "data.batch_size=512", "visuals=none", "device=cpu")
TWO_EPOCHS = (*CNN, "trainer.max_epochs=2", "device.threads=1")
ONE_STEP = ("trainer.max_epochs=1", "+trainer.limit_train_batches=1", "trainer.test=false")


def trained(lamella: Lamella, name: str, *options: str) -> Path:
    """A run that is finished, with a name of its own."""
    result = lamella("train", *options, f"name={name}")
    assert result.status == 0, result.err
    [path] = Path("outputs", name).iterdir()
    return path


def metrics(path: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((path / "run.json").read_text())["metrics"]
    return found


def layout(path: Path) -> object:
    """What the config of a run says."""
    return yaml.safe_load((path / "config.yaml").read_text())["device"]["channels_last"]


@pytest.mark.slow
def test_the_results_are_the_same_and_the_files_too(lamella: Lamella) -> None:
    usual, last = (
        trained(lamella, f"is-{value}", *TWO_EPOCHS, "trainer.ema=0.9", f"device.channels_last={value}")
        for value in ("false", "true")
    )
    for name in ("train/loss", "val/loss", "test/loss"):
        assert metrics(last)[name] == pytest.approx(metrics(usual)[name], rel=1e-3)
    weights = [read_weights(path / "checkpoints/last.ckpt") for path in (usual, last)]
    assert [(name, value.shape) for name, value in weights[0].items()] == [
        (name, value.shape) for name, value in weights[1].items()
    ]
    assert lamella("eval", str(last)).out.count(f"{metrics(last)['test/loss']:.4f}") == 1
    images = digits().train.inputs
    assert isinstance(images, torch.Tensor)
    torch.testing.assert_close(*(package.load(path).predict(images[:8]) for path in (usual, last)), rtol=0.1, atol=1e-3)
    # Weights are exchanged between both orders.
    for weighed, value in ((usual, "true"), (last, "false")):
        options = (f"network.weights='{weighed}'", f"device.channels_last={value}", "trainer.max_epochs=1")
        assert metrics(trained(lamella, f"from-{value}", *CNN, *options))["val/loss"] < metrics(usual)["val/loss"]


@pytest.mark.slow
def test_a_measurement_is_recorded_and_changes_no_bit(lamella: Lamella) -> None:
    options = (*TWO_EPOCHS, "network.dropout=0.2", "data.augment=[{crop: 1}]")
    result = lamella("train", *options, "device.channels_last=auto", "name=auto")
    assert result.status == 0, result.err
    [auto] = Path("outputs/auto").iterdir()
    chosen = layout(auto)
    assert chosen in (True, False)
    line = f"device.channels_last is auto: {str(chosen).lower()}, a step takes "
    assert line in result.out
    told = trained(lamella, "told", *options, f"device.channels_last={str(chosen).lower()}")
    assert kill.differences(told, auto) == []
    result = lamella("reproduce", str(auto))
    assert "reproduced: " in result.out, result.err
    assert "is auto" not in result.out
    for path in (auto, told):
        assert lamella("resume", str(path), "trainer.max_epochs=3").status == 0
    assert kill.differences(told, auto) == []
    refused = lamella("resume", str(auto), "device.channels_last=false")
    assert refused.status == 2
    assert "cannot change when a run is resumed" in refused.err


PLAIN = """
import lamella

class Plain(lamella.Task):
    def step(self, batch):
        return {"loss": self.objective(self.network(batch[0]), batch[1])}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("data=shapes", "data.source.count=120", "network=unet", "network.width=4", "data.batch_size=20"),
        ("network=linear",),
        (*CNN, "device.precision=bf16-mixed", "trainer.accumulate_grad_batches=2"),
        (*CNN, "device.deterministic=true"),
        ("task._target_=plain.Plain", *CNN, "monitor=val/loss"),
    ],
    ids=["masks", "no convolution", "bf16", "deterministic", "own step"],
)
def test_what_can_be_measured(lamella: Lamella, project: Project, options: tuple[str, ...]) -> None:
    project(plain=PLAIN)
    path = trained(lamella, "run", *options, *ONE_STEP, "device.channels_last=auto")
    fixed = "network=linear" in options or "device.deterministic=true" in options
    assert layout(path) in ((False,) if fixed else (True, False))


VIEWS = """
from torch import nn

class Views(nn.Module):
    def forward(self, inputs):
        return inputs.view(len(inputs), -1)
"""
LAYERS = "network.layers=[{Conv2d: [4, 3]}, {Conv2d: [4, 3]}, {_target_: views.Views}, {Linear: 10}]"


def test_a_network_that_cannot_take_it(lamella: Lamella, project: Project) -> None:
    project(views=VIEWS)
    lamella("train", "network=linear", LAYERS, "device.channels_last=true").check_refusal(
        "network: Views at 2 fails on a training batch of", "view size is not compatible"
    )
    result = lamella("train", "network=linear", LAYERS, "device.channels_last=auto", "trainer.max_epochs=1")
    assert result.status == 0, result.err
    assert "device.channels_last is auto: false, because a step with it fails: view size is not" in result.out


def test_a_lightning_module_decides_by_itself(lamella: Lamella, project: Project) -> None:
    project(own=f"import torch\nimport pytorch_lightning as pl\nfrom torch import nn\n{OWN_MODULE.replace('LAST', '')}")
    lamella("train", "task._target_=own.Own", "device.channels_last=auto").check_refusal(
        "device.channels_last is auto, but own.Own is no lamella.Task", "self.to(memory_format=torch.channels_last)"
    )


@pytest.mark.slow
def test_a_sweep_and_two_processes(tmp_path: Path) -> None:
    options = (*CNN, *ONE_STEP, "device.channels_last=auto")
    programs.run(tmp_path / "sweep", "train", "-m", *options, "seed=0,1", "sweep.name=s", "hydra/launcher=basic")
    members = [path.parent for path in (tmp_path / "sweep/outputs/default/s").glob("*/run.json")]
    assert len(members) == 2
    assert {layout(path) for path in members} <= {True, False}
    programs.run(tmp_path / "two", "train", *options, "trainer=ddp", "trainer.devices=2")
    assert layout(run_in(tmp_path / "two")) in (True, False)
