"""`network.freeze`: what is not trained, in which epochs, and with which bits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Lamella
from torch import nn

from lamella.network import plan
from lamella.network.freeze import freeze_parameters
from lamella.runs.checkpoints import read_checkpoint, read_weights

CONV = {"Conv1d": [3, 3]}
THAW = "network.freeze={features.*: 1, classifier.1.*: null}"
BASE = ("network=cnn", "network.widths=[4,8]", "data.batch_size=256", "visuals=none", "device=cpu", "device.threads=1")


def frozen(network: nn.Module) -> list[str]:
    return [name for name, value in network.named_parameters() if not value.requires_grad]


def test_parameters_are_thawed_after_the_last_epoch_of_their_pattern() -> None:
    network: Any = plan([CONV, "BatchNorm1d", "Dropout", "Flatten", {"Linear": 2}], (2, 8)).build()
    freeze = {"[01].*": 2, "0.bias": None, "1.weight": 3}
    freeze_parameters(network, freeze)
    assert frozen(network) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert [layer.training for layer in network] == [True, False, True, True, True]
    freeze_parameters(network, freeze, 3)
    assert frozen(network) == ["0.bias", "1.weight"]
    assert network[1].training
    freeze_parameters(network, freeze, 4)
    assert frozen(network) == ["0.bias"]


def test_frozen_layers_keep_their_statistics() -> None:
    network: Any = plan(
        [CONV, "BatchNorm1d", {"InstanceNorm1d": {"track_running_stats": True}}, "Dropout"], (2, 8)
    ).build()
    freeze_parameters(network, ["1.*"])
    assert [layer.training for layer in network] == [True, False, True, True]
    freeze_parameters(network, ["2.running_*"])
    assert not network[2].training


def run_of(name: str) -> Path:
    [path] = Path("outputs", name).iterdir()
    return path


@pytest.mark.slow(10)
@pytest.mark.parametrize("optimizer", ["adam", "sgd", "adamw +optimizer.foreach=true optimizer.fused=null"])
def test_a_thaw_in_chunks_and_after_a_resume_is_that_of_single_steps(lamella: Lamella, optimizer: str) -> None:
    line = ("train", *BASE, THAW, *f"optimizer={optimizer}".split(), "trainer.max_epochs=3")
    for name, more in (("single", ["trainer.chunk=1"]), ("chunks", ["trainer.chunk=4"])):
        result = lamella(*line, f"name={name}", *more)
        assert result.status == 0, result.err
    # Stopped before the thaw, and gone on from there.
    assert lamella(*line[:-1], "trainer.max_epochs=1", "name=stopped").status == 0
    stopped = run_of("stopped")
    before = read_checkpoint(stopped / "checkpoints/last.ckpt")
    result = lamella("resume", str(stopped), "trainer.max_epochs=3")
    assert result.status == 0, result.err
    assert "a callback had frozen" not in result.out
    last = {name: read_checkpoint(run_of(name) / "checkpoints/last.ckpt") for name in ("single", "chunks", "stopped")}
    for name, checkpoint in last.items():
        for key, value in last["single"]["state_dict"].items():
            assert torch.equal(checkpoint["state_dict"][key], value), (name, key)
        [one], [other] = last["single"]["optimizer_states"], checkpoint["optimizer_states"]
        assert [sorted(group["params"]) for group in one["param_groups"]] == [
            sorted(group["params"]) for group in other["param_groups"]
        ]
        for key, state in one["state"].items():
            assert all(torch.equal(value, other["state"][key][part]) for part, value in state.items())
    # What is frozen stays as it was drawn, and the state of what is thawed begins then.
    now = last["single"]["state_dict"]
    assert int(before["state_dict"]["network.features.2.num_batches_tracked"]) == 0
    assert int(now["network.features.2.num_batches_tracked"]) == 2 * 6
    assert torch.equal(now["network.classifier.1.weight"], before["state_dict"]["network.classifier.1.weight"])
    assert not torch.equal(now["network.features.0.weight"], before["state_dict"]["network.features.0.weight"])
    steps = {
        float(state["step"]) for state in last["single"]["optimizer_states"][0]["state"].values() if "step" in state
    }
    assert steps == (set() if optimizer == "sgd" else {12.0, 18.0})
    assert len(before["optimizer_states"][0]["state"]) == 2


@pytest.mark.slow
def test_what_cannot_be_frozen_is_refused(lamella: Lamella) -> None:
    cases: dict[str, str] = {
        "[stack.*]": "no parameter is called like 'stack.*'; ",
        "[1.weigth]": "no parameter is called like '1.weigth'; did you mean 1.weight?",
        "{2.*: 3}": "no parameter is called like '2.*'; ",
        "['*']": "it leaves no parameter to train\n",
        "{1.*: 2}": "it leaves no parameter to train in epoch 1\n",
        "1.weight": "network.freeze is '1.weight'; it takes a list of patterns",
        "[1]": "network.freeze is [1]; it takes a list of patterns",
        "{1.weight: -1}": "network.freeze is -1 for 1.weight; it takes the number of the last epoch",
        "{1.weight: 0}": "network.freeze is 0 for 1.weight; it takes the number of the last epoch",
        "{1.weight: true}": "network.freeze is True for 1.weight; it takes the number of the last epoch",
    }
    for freeze, message in cases.items():
        result = lamella("train", "network=linear", f"network.freeze={freeze}")
        assert result.status == 2, freeze
        assert result.err.startswith("error: network.freeze")
        assert message in result.err
    result = lamella("train", "network=linear", "network.freeze={1.weight: 2}", "trainer=ddp", "trainer.devices=2")
    assert result.status == 2
    assert result.err.startswith("error: network.freeze: several processes decide at the start of a run")
    assert not Path("outputs").exists()


def test_a_thaw_after_the_end_is_said(lamella: Lamella) -> None:
    result = lamella("train", *BASE, "network.freeze={features.*: 1, classifier.1.*: 5}", "trainer.max_epochs=1")
    assert result.status == 0, result.err
    for pattern, epoch in (("features.*", 1), ("classifier.1.*", 5)):
        note = f"note: network.freeze thaws {pattern} after epoch {epoch}, and trainer.max_epochs is 1: it is never"
        assert note in result.err
    shown = lamella("inspect", *BASE, "network.freeze={features.*: 1, classifier.1.bias: null}").out
    assert "frozen until the end of epoch 1: 360 parameters (features.0.weight," in shown
    assert "frozen: 128 parameters (classifier.1.bias)" in shown


def test_a_sweep_trains_a_thaw_alone_and_says_so(lamella: Lamella) -> None:
    line = ("train", "-m", *BASE, THAW, "seed=0,1", "trainer.max_epochs=1", "hydra/launcher=fused", "sweep.name=s")
    result = lamella(*line)
    assert result.status == 0, result.err
    assert "2 of 2 jobs run alone: network.freeze thaws parameters in the course of the run" in result.out


def test_an_option_of_a_network_may_freeze(lamella: Lamella, tmp_path: Path) -> None:
    file = tmp_path / "conf/network/mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("freeze: [1.*]\nlayers: [Flatten, Linear: 3, Linear: 10]\n")
    result = lamella("train", "network=mine", "trainer=debug")
    assert result.status == 0, result.err
    [run] = Path("outputs").glob("*/*")
    assert len(read_checkpoint(run / "checkpoints/last.ckpt")["optimizer_states"][0]["state"]) == 2
    assert read_weights(run / "checkpoints/last.ckpt")
