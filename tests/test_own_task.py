"""A task of the project's own: what its step may return, what is refused before training, and what is promised."""

import json
from pathlib import Path
from typing import Any

import programs
import pytest
from conftest import Lamella, Project
from killed import kill_and_resume

OWN = """
import torch

import lamella


class Mine(lamella.Task):
    def __init__(self, returns: str = "all", scale: float = 1.0) -> None:
        super().__init__()
        self.returns, self.scale = returns, scale

    def step(self, batch):
        output = self.network(batch[0])
        loss = self.objective(output, batch[1]) * self.scale
        if self.returns == "error":
            output["missing"]
        return {
            "all": {"loss": loss, "output": output, "pixels": batch[0].mean(), "noise": torch.rand(())},
            "no loss": {"output": output},
            "detached": {"loss": loss.detach()},
            "list": [loss],
            "vector": {"loss": loss, "norms": output.norm(dim=1)},
            "number": {"loss": loss, "half": 0.5},
            "taken": {"loss": loss, "lr": loss},
            "counted": {"loss": loss, "output": output, "accuracy": loss},
            "own accuracy": {"loss": loss, "accuracy": loss},
            "no output": {"loss": loss},
            "none": {"loss": loss, "output": None},
            "changing": {"loss": loss} | ({"training": loss} if len(batch[0]) == 64 else {}),
        }[self.returns]


class Stacks(lamella.Task):
    def step(self, batch):
        code = self.network["encoder"](batch[0])
        drawn = self.network["decoder"](code + torch.randn_like(code))
        return {"loss": (drawn - batch[0]).square().mean(), "size": code.square().mean()}
"""
STACKS = """
encoder:
  layers: [Flatten, Linear: 8]
decoder:
  shape: [8]
  layers: [Linear: 784, Unflatten: [1, [1, 28, 28]]]
"""
TASK = "task._target_=mine.Mine"
BASE = (TASK, "device=cpu", "device.threads=1", "network=linear", "visuals=none")
SHORT = (*BASE, "trainer.max_epochs=1", "+trainer.limit_train_batches=2")


@pytest.fixture
def own(project: Project) -> None:
    project({"network/stacks.yaml": STACKS}, mine=OWN)


def lines(directory: Path) -> list[dict[str, Any]]:
    """The metrics of each epoch of the one run in a directory."""
    [path] = directory.glob("outputs/*/*/metrics.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("returns", "message"),
    [
        (
            "no loss",
            "returns a mapping of output; the key 'loss' is missing, and it has to be a tensor, as {'loss': loss}",
        ),
        ("list", "returns list; it has to return a mapping, as {'loss': loss}"),
        ("vector", "returns 'norms' of shape (64,); it takes a tensor of one number, the mean of the batch"),
        ("number", "returns 'half' a float; it takes a tensor of one number, the mean of the batch"),
        ("taken", "returns 'lr', which cannot name a metric; choose another name"),
        ("counted", "returns 'accuracy', which is counted from 'output'; leave it out"),
        ("none", "returns 'output' a NoneType; it takes the output of the network"),
    ],
)
@pytest.mark.usefixtures("own")
def test_what_a_step_cannot_return(lamella: Lamella, returns: str, message: str) -> None:
    result = lamella("train", *SHORT, f"+task.returns={returns}")
    assert result.status == 2
    assert result.err.startswith(f"error: task: mine.Mine.step {message}\n")
    assert not Path("outputs").exists()


@pytest.mark.usefixtures("own")
def test_a_loss_that_nothing_trained_is_in(lamella: Lamella) -> None:
    result = lamella("train", *SHORT, "+task.returns=detached", "monitor=val/loss")
    assert result.status == 2
    assert result.err.startswith("error: task: the loss of mine.Mine.step depends on no parameter that is trained\n")


@pytest.mark.usefixtures("own")
def test_every_batch_gives_the_same_names(lamella: Lamella) -> None:
    result = lamella("train", *BASE, "+task.returns=changing", "monitor=val/loss", "trainer.max_epochs=1")
    assert result.status == 2
    assert "the step returns [] beside the loss for this batch, and ['training'] for those before it" in result.err


@pytest.mark.usefixtures("own")
def test_metrics_are_counted_from_an_output(lamella: Lamella) -> None:
    result = lamella("train", *SHORT, "+task.returns=no output", "metrics=[f1]", "monitor=val/loss")
    assert (result.status, result.err.splitlines()[0]) == (
        2, "error: task: mine.Mine.step returns no 'output', from which metrics.f1 is counted"
    )  # fmt: skip
    stacks = ("task._target_=mine.Stacks", "network=stacks", "monitor=val/loss")
    result = lamella("train", *stacks, "metrics=[f1]")
    assert result.status == 2
    assert result.err.startswith(
        "error: metrics.f1: this task compares no output with the targets, and f1 needs both\n"
    )


@pytest.mark.usefixtures("own")
def test_a_step_without_output_may_count_an_accuracy_of_its_own(lamella: Lamella) -> None:
    result = lamella("train", *SHORT, "+task.returns=own accuracy")
    assert result.status == 0, result.err
    [line] = lines(Path())
    assert line["val/accuracy"] == pytest.approx(line["val/loss"])


@pytest.mark.usefixtures("own")
def test_the_direction_of_a_name_of_the_step_is_said(lamella: Lamella) -> None:
    result = lamella("train", *SHORT, "monitor=val/noise")
    assert result.status == 0, result.err
    assert "note: a larger val/noise counts as better\n" in result.out + result.err


@pytest.mark.usefixtures("own")
def test_a_monitor_that_the_step_does_not_give(lamella: Lamella) -> None:
    result = lamella("train", *SHORT, "monitor=val/noize")
    assert result.status == 2
    assert "monitor is 'val/noize'; this task gives train/accuracy, " in result.err
    assert "val/noise, val/pixels" in result.err
    assert not Path("outputs").exists()


@pytest.mark.usefixtures("own")
def test_a_callback_waits_for_what_the_step_gives(lamella: Lamella) -> None:
    callback = "trainer.callbacks=[{{_target_: pytorch_lightning.callbacks.EarlyStopping, monitor: val/{}}}]"
    result = lamella("train", *SHORT, callback.format("noize"))
    assert result.status == 2
    assert "trainer.callbacks.0.monitor is 'val/noize'; this task logs " in result.err
    result = lamella("train", *SHORT, callback.format("noise"), "monitor=val/noise")
    assert result.status == 0, result.err


@pytest.mark.usefixtures("own")
def test_an_error_in_the_step_shows_its_line(lamella: Lamella) -> None:
    result = lamella("train", *SHORT, "+task.returns=error")
    assert result.status == 2
    assert result.err.startswith("error: task: Mine.step fails on a training batch of 64 samples: ")
    number = OWN.splitlines().index('            output["missing"]') + 1
    assert f'  mine.py, line {number}, in step: output["missing"]\n' in result.err
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["+network.encoder.witdh=3"],
            "network.encoder.witdh: nothing in the network reads this key; known: init, layers, name",
        ),
        (["+network.critic.shape=[3]"], "network.critic: a stack takes `layers` or a `_target_`, and this one has "),
        (["+network.width=3"], "network.width: nothing in the network reads this key; known: decoder, encoder"),
        (["network.decoder.shape=[9]"], "network: Linear at decoder.0 fails on a training batch of 64 samples: "),
        (
            ["network=linear"],
            "network: it has no named stacks, and the step of the task takes the stack 'encoder'\n  mine.py, line ",
        ),
        (
            ["~network.encoder", "+network.coder={layers: [Flatten]}"],
            "network: it has the stacks decoder, coder, and the step of the task takes the stack 'encoder'\n  mine.py",
        ),
        (
            ["task._target_=lamella.Task"],
            "network: it has 2 named stacks, encoder, decoder, and the task lamella.Task takes one; write one list ",
        ),
    ],
)
@pytest.mark.usefixtures("own")
def test_named_stacks_that_are_wrong(lamella: Lamella, options: list[str], message: str) -> None:
    result = lamella("train", "task._target_=mine.Stacks", "network=stacks", "monitor=val/loss", *options)
    assert result.status == 2
    assert result.err.startswith(f"error: {message}")
    assert not Path("outputs").exists()


@pytest.mark.usefixtures("own")
def test_a_command_that_takes_one_network_names_the_stacks(lamella: Lamella) -> None:
    result = lamella(
        "train", "task._target_=mine.Stacks", "network=stacks", "monitor=val/loss", *SHORT[1:3], *SHORT[4:]
    )
    assert result.status == 0, result.err
    [run] = Path("outputs/default").iterdir()
    for arguments in (("predict", str(run), "photo.png"), ("export", str(run), "--format", "onnx")):
        result = lamella(*arguments)
        assert result.status == 2
        assert "network has the stacks encoder, decoder, which a step of the task's own runs" in result.err


@pytest.mark.slow
@pytest.mark.usefixtures("own")
def test_a_value_of_the_task_is_tried_before_a_sweep(lamella: Lamella) -> None:
    result = lamella("train", "-m", *SHORT, "+task.returns=all,list")
    assert result.status == 2
    assert "mine.Mine.step returns list" in result.err
    assert not list(Path("outputs").rglob("run.json"))


@pytest.mark.slow
@pytest.mark.usefixtures("own")
def test_a_fused_sweep_says_that_its_jobs_run_alone(lamella: Lamella) -> None:
    result = lamella("train", "-m", "hydra/launcher=fused", *SHORT, "seed=0,1")
    assert result.status == 0, result.err
    assert "2 of 2 jobs run alone: task: mine.Mine may have a step of its own" in result.out


@pytest.mark.slow(20)
@pytest.mark.usefixtures("own")
def test_two_processes_average_the_further_results(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for directory in (one, two):
        directory.mkdir()
        for name in ("mine.py", "pyproject.toml"):
            (directory / name).write_text((tmp_path / name).read_text())
    options = (*BASE, "trainer.max_epochs=1")
    programs.run(one, "train", *options)
    programs.run(two, "train", *options, "trainer=ddp", "trainer.devices=2")
    [expected], [found] = lines(one), lines(two)
    for name in ("train/pixels", "val/pixels", "train/loss", "val/loss"):
        assert found[name] == pytest.approx(expected[name], rel=1e-4), name


@pytest.mark.slow(15)
@pytest.mark.usefixtures("own")
def test_further_results_survive_a_kill(tmp_path: Path) -> None:
    """In the middle of an epoch, with random numbers in the step."""
    stacks = ("task._target_=mine.Stacks", "network=stacks", "monitor=val/size", "trainer.max_epochs=2")
    options = (*stacks, "device=cpu", "device.threads=1", "data.batch_size=256", "trainer.checkpoint_every=1steps")
    reference, killed = tmp_path / "reference", tmp_path / "killed"
    for directory in (reference, killed):
        for name in ("mine.py", "pyproject.toml", "conf/network/stacks.yaml"):
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text((tmp_path / name).read_text())
    kill_and_resume(reference, killed, *options)
