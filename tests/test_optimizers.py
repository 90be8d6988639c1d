"""Several optimizers: which parameters each one trains, when it takes a step, what is logged, and what is refused."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import programs
import pytest
import torch
from conftest import Lamella, Project, Shared

PAIR = """
import torch

import lamella


class Pair(lamella.Task):
    def __init__(self, outputs: str = "head", scale: float = 1.0, noise: float = 0.1) -> None:
        super().__init__()
        self.outputs, self.scale, self.noise = outputs.split(), scale, noise

    def step(self, batch, optimizer):
        images, targets = batch
        if torch.is_grad_enabled():
            for name, one in self.network.named_parameters():
                assert one.requires_grad == name.startswith(optimizer)
        output = self.network(images + self.noise * torch.randn_like(images))
        found = {"loss": self.objective(output, targets) * (self.scale if optimizer == "body" else 1)}
        if optimizer == "body":
            found["size"] = output.mean()
        return found | ({"output": output} if optimizer in self.outputs else {})


class Plain(lamella.Task):
    def step(self, batch):
        return {"loss": self.network(batch[0]).mean()}
"""
NETWORK = """
layers:
  body: [Flatten, Linear: 8, BatchNorm1d]
  head: [Linear: 10]
"""
OPTIMIZER = """
rate: 0.01
body: {_target_: torch.optim.SGD, match: body.*, lr: "${optimizer.rate}"}
head: {_target_: torch.optim.Adam, match: [head.*.weight, head.*.bias], lr: 0.001, every: 3}
"""
PAIRED = ("task._target_=mine.Pair", "network=pair", "optimizer=pair", "monitor=val/body_loss")
SHORT = ("device=cpu", "device.threads=1", "visuals=none", "trainer.max_epochs=2", "data.batch_size=128")
CONF = {"network/pair.yaml": NETWORK, "optimizer/pair.yaml": OPTIMIZER}


@pytest.fixture
def pair(project: Project) -> None:
    project(CONF, mine=PAIR)


@pytest.fixture(scope="module")
def run(shared: Shared) -> Path:
    """A finished run of two optimizers, with a warm-up and a schedule; not to be changed."""

    def train(directory: Path) -> None:
        for name, text in {"mine.py": PAIR, **{f"conf/{name}": text for name, text in CONF.items()}}.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text(text)
        (directory / "pyproject.toml").write_text('[tool.lamella]\ntargets = ["mine"]\n')
        programs.run(
            directory, "train", *PAIRED, *SHORT, "scheduler=cosine", "scheduler.warmup_steps=20", "metrics=[f1]"
        )

    return next(shared("pair", train).glob("outputs/default/*"))


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_each_optimizer_has_its_steps_rate_and_loss(run: Path) -> None:
    found, record = lines(run), json.loads((run / "run.json").read_text())
    batches = -(-1294 // 128)
    turns = -(-batches // 3)
    assert record["steps"] == 2 * (batches + turns)
    states = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert [float(state["step"]) for state in states["optimizer_states"][1]["state"].values()] == [2.0 * turns] * 2
    assert [state["last_epoch"] for state in states["lr_schedulers"]] == [2 * batches, 2 * turns]
    # The second epoch's last step of each: the cosine of all its steps but one, and the warm-up of 20.
    for name, rate, steps in (("body", 0.01, 2 * batches), ("head", 0.001, 2 * turns)):
        cosine = 0.5 * (1 + torch.cos(torch.tensor((steps - 1) / steps, dtype=torch.float64) * torch.pi))
        warm = min(1.0, 1e-3 + (1 - 1e-3) * (steps - 1) / 20)
        assert found[1][f"lr/{name}"] == pytest.approx(rate * float(cosine) * warm), name
    for line in found:
        for stage in ("train", "val"):
            assert line[f"{stage}/loss"] == pytest.approx(line[f"{stage}/body_loss"] + line[f"{stage}/head_loss"])
    assert {"train/body_size", "val/body_size", "train/body_loss", "val/head_loss"} <= found[0].keys()
    assert found[1]["val/head_loss"] < found[0]["val/head_loss"]
    assert {"lr", "train/body_accuracy", "train/head_f1"}.isdisjoint(found[0])
    assert found[1]["val/accuracy"] > found[0]["val/accuracy"] > 0.1
    assert found[1]["val/f1"] > 0
    assert record["lower_is_better"] == ["loss", "body_loss", "head_loss"]


def test_the_best_epoch_has_the_lowest_loss(run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    assert record["metrics"]["val/body_loss"] == min(line["val/body_loss"] for line in lines(run))


def test_commands_that_take_a_run(lamella: Lamella, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run.parents[2], tmp_path, dirs_exist_ok=True)
    copy = next(tmp_path.glob("outputs/default/*"))
    record = json.loads((run / "run.json").read_text())
    tested = lamella("eval", str(copy))
    assert tested.status == 0, tested.err
    assert f"body_loss {record['metrics']['test/body_loss']:.4f}" in tested.out
    assert lamella("inspect", str(copy), "--gradients").status == 0
    again = lamella("reproduce", str(copy))
    assert again.status == 0, again.out + again.err


MISTAKES = {
    "optimizer.body.match=bodi.*": ["is trained is called like 'bodi.*'; did you mean body.*?"],
    "optimizer.head.match=head.0.weight": [": no optimizer trains head.0.bias; write a pat", "freeze=[head.0.bias]"],
    "optimizer.head.match=*": [".head.match: body.1.weight is trained by optimizer.body too; each parameter has one"],
    "~optimizer.head.match": [".head has no `match`; it takes a pattern of the names of the parameters to train"],
    "optimizer.head.match=3": [".head.match is 3; it takes a pattern of the names", "as head.*, or a list of such"],
    "network.freeze=[head.*]": [".head.match: no parameter that is trained is called like 'head.*.weight'"],
    "optimizer.head.every=0": [".head.every is 0; it takes 1 for a step in each batch, 2 for one in each second batch"],
    "+optimizer.body.every=2": [": in some batches no optimizer would take a step; give one of them `every: 1`"],
    "+optimizer.head.lrr=1": [".head.lrr: Adam has no such argument; did you mean lr?"],
    "optimizer.head.lr=fast": [".head.lr is 'fast'; Adam takes float"],
    "+optimizer.lr=1": [".lr: no optimizer reads this key; write optimizer.body.lr or optimizer.head.lr"],
    "~optimizer.head._target_": [".head: it takes a `_target_`, the class of this optimizer"],
    "+optimizer.a-b={_target_: torch.optim.SGD, match: x}": [".a-b: the name of an optimizer is letters, digits"],
    "+optimizer._target_=torch.optim.SGD": [".body: the option of this group is a single optimizer", "optimizer=NAME"],
    "optimizer=adam": ["task: mine.Pair.step takes the name of an optimizer, and the config has a single one"],
    "task._target_=mine.Plain": ["the config has the optimizers body, head, and mine.Plain.step takes no argument"],
    "task._target_=lamella.Task monitor=val/loss": ["Task.step takes no argument", "step(self, batch, optimizer)"],
    "+task.outputs='body head'": ["mine.Pair.step returns 'output' for the optimizers 'body' and 'head'"],
    "+task.outputs=none metrics=[f1]": ["mine.Pair.step returns no 'output', from which metrics.f1 is counted"],
    "monitor=val/loose": [
        "'val/loose'; this task gives train/accuracy, train/body_loss, train/body_size, train/head_loss"
    ],
    "trainer.gradient_clip_val=1": ["gradient_clip_val is 1, which is for a single optimizer; with several ones grad"],
    "trainer.accumulate_grad_batches=2": ["accumulate_grad_batches is 2, which is", "write a larger data.batch_size"],
    "+trainer.max_steps=5": ["max_steps is 5", "it would count the steps of all of them; write trainer.max_epochs"],
    "trainer.ema=0.9": ["trainer.ema averages the weights of a lamella.Task with one optimizer; leave it out"],
    "trainer.chunk=4": ["trainer.chunk is 4", "they are trained batch by batch; leave it out"],
    "trainer=ddp": ["strategy is 'ddp', which would wait", "write trainer.strategy=ddp_find_unused_parameters_true"],
    "scheduler=plateau": ["scheduler: plateau follows one loss, and each of several optimizers has its own"],
    "scheduler=one_cycle scheduler.max_lr=0.1": ["is one rate for all optimizers, and theirs differ: 0.01, 0.001"],
    "trainer.callbacks=[{_target_:pytorch_lightning.callbacks.GradientAccumulationScheduler,scheduling:{0:2}}]": [
        "trainer.callbacks.0: GradientAccumulationScheduler: with several optimizers each takes its step with one batch"
    ],
}


@pytest.mark.parametrize("option", MISTAKES)
@pytest.mark.usefixtures("pair")
def test_mistakes(lamella: Lamella, option: str) -> None:
    result = lamella("train", *PAIRED, *SHORT, *re.split(r" (?=\S+=)", option))
    result.check_refusal(*MISTAKES[option])


@pytest.mark.usefixtures("pair")
def test_a_loss_that_is_not_finite_names_its_optimizer(lamella: Lamella) -> None:
    result = lamella("train", *PAIRED, *SHORT, "+task.scale=1e39")
    assert result.status == 1
    assert "the loss of body is inf at step 1 (epoch 1), with learning rate 0.01; try a smaller " in result.err


@pytest.mark.usefixtures("pair")
def test_callbacks_and_several_optimizers(lamella: Lamella) -> None:
    """Early stopping by the loss of one of them, averaged weights, and the rates that Lightning logs."""
    names = ("EarlyStopping, monitor: val/head_loss", "EMAWeightAveraging", "LearningRateMonitor")
    callbacks = ", ".join(f"{{_target_: pytorch_lightning.callbacks.{name}}}" for name in names)
    result = lamella("train", *PAIRED, *SHORT, f"trainer.callbacks=[{callbacks}]", "visuals=full")
    assert result.status == 0, result.err


@pytest.mark.slow(20)
def test_two_processes_train_as_one(project: Project, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for directory in (one, two):
        project(CONF, directory, mine=PAIR)
    # Random numbers and BatchNorm are those of each process.
    options = (*PAIRED, *SHORT, "+task.noise=0.0", "network.layers.body=[Flatten,{Linear: 8}]")
    programs.run(one, "train", *options)
    more = ("trainer=ddp", "trainer.strategy=ddp_find_unused_parameters_true")
    programs.run(two, "train", *options, *more, kind=programs.RealProgram)
    expected, found = (lines(next(path.glob("outputs/default/*")))[1] for path in (one, two))
    for name in ("train/body_loss", "train/head_loss", "val/loss", "val/accuracy"):
        assert found[name] == pytest.approx(expected[name], rel=1e-4), name


@pytest.mark.slow(15)
@pytest.mark.usefixtures("pair")
def test_a_sweep_trains_such_jobs_alone_and_ranks_them(lamella: Lamella) -> None:
    result = lamella("train", "-m", "hydra/launcher=fused", *PAIRED, *SHORT, "optimizer.rate=0.01,0.1")
    assert result.status == 0, result.err
    assert "2 of 2 jobs run alone: task: mine.Pair may have a step of its own" in result.out
    runs = [json.loads(path.read_text()) for path in Path("outputs").rglob("run.json")]
    losses = sorted(fields["metrics"]["val/body_loss"] for fields in runs)
    shown = [f"{loss:.4f}" for loss in losses]
    assert result.out.rindex(shown[0]) < result.out.rindex(shown[1])
