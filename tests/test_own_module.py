"""A LightningModule of the project's own: what it is given, what is recorded of it, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import programs
import pytest
import torch
from conftest import Lamella, Project, Shared
from killed import kill_and_resume

import lamella as api

LAB = """
import pytorch_lightning as pl
import torch
import torchmetrics
from torch import nn
from torch.nn.functional import cross_entropy


class Lit(pl.LightningModule):
    def __init__(self, network, optimizer, noise: float = 0.1):
        super().__init__()
        self.save_hyperparameters()
        self.network = network
        self.mean = torchmetrics.MeanMetric()
        self.scores = torchmetrics.MetricCollection(
            [torchmetrics.Accuracy("multiclass", num_classes=10), torchmetrics.F1Score("multiclass", num_classes=10)]
        )

    def forward(self, images):
        return self.network(images)

    def training_step(self, batch, batch_idx):
        images, targets = batch
        output = self(images + self.hparams.noise * torch.randn_like(images))
        loss = cross_entropy(output, targets)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        self.log("largest", loss, on_step=False, on_epoch=True, reduce_fx=max)
        self.log("last", loss)
        if batch_idx < 2:
            self.log("early", loss, on_step=False, on_epoch=True)
        self.mean(loss.detach())
        self.log("mean", self.mean, on_step=False, on_epoch=True)
        self.scores.update(output, targets)
        return loss

    def on_train_epoch_end(self):
        self.log_dict(self.scores.compute())
        self.scores.reset()
        self.logger.experiment.add_scalar("mine", 1.0, self.current_epoch)

    def validation_step(self, batch, batch_idx):
        output = self(batch[0])
        self.log("loss", cross_entropy(output, batch[1]))
        self.log("val/acc", (output.argmax(1) == batch[1]).float().mean())

    def test_step(self, batch, batch_idx):
        self.log("test_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return self.hparams.optimizer(params=self.parameters())


class Plain(pl.LightningModule):
    def __init__(self, fails: str = "", sizes: tuple[int, int] = (784, 10)):
        super().__init__()
        self.fails = fails
        self.layer = nn.Linear(*sizes)

    def training_step(self, batch, batch_idx):
        if self.fails == "step":
            batch["missing"]
        loss = cross_entropy(self.layer(batch[0].flatten(1)), batch[1])
        self.log("loss", loss / 0 if self.fails == "loss" else loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=-1.0 if self.fails == "optimizer" else 1e-3)

    def on_save_checkpoint(self, checkpoint):
        if self.fails == "saving":
            checkpoint["layer"] = self.layer


class Resting(Plain):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class Stepless(pl.LightningModule):
    def configure_optimizers(self):
        return None


class Optimizerless(pl.LightningModule):
    def training_step(self, batch, batch_idx):
        return None


class Thing:
    pass


def silent():
    return Plain()


class Needy(Plain):
    def __init__(self, size):
        super().__init__()


class Predicting(Plain):
    def predict_step(self, batch, batch_idx):
        return {"prediction": batch}
"""
BASE = ("device=cpu", "device.threads=1", "data.batch_size=256", "visuals=none")
LIT = ("task._target_=lab.Lit", "network=linear", "monitor=val/acc", "optimizer.lr=1e-2", *BASE)
SHORT = ("monitor=train/loss", "trainer.max_epochs=1", *BASE)


def plain(name: str = "Plain") -> tuple[str, ...]:
    return (f"task._target_=lab.{name}", *SHORT)


@pytest.fixture
def lab(project: Project) -> None:
    project(lab=LAB)


@pytest.fixture(scope="module")
def lit(shared: Shared) -> Path:
    """A finished run of lab.Lit in two epochs; not to be changed."""

    def fill(path: Path) -> None:
        (path / "lab.py").write_text(LAB)
        (path / "pyproject.toml").write_text('[tool.lamella]\ntargets = ["lab"]\n')
        programs.run(path, "train", *LIT, "visuals=full", "trainer.max_epochs=2")

    return next(shared("lit", fill).glob("outputs/default/*"))


@pytest.fixture
def run(lit: Path, lab: None, lamella: Lamella) -> Path:
    """A copy of `lit` in the working directory."""
    return Path(shutil.copytree(lit, "outputs/default/run"))


def record(run: Path) -> Any:
    return json.loads((run / "run.json").read_text())


def lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_what_is_logged_are_metrics_of_the_epoch(lit: Path) -> None:
    names = {
        *(f"train/{name}" for name in ("loss", "largest", "last", "early", "mean")),
        *("train/MulticlassAccuracy", "train/MulticlassF1Score", "val/loss", "val/acc", "seconds", "epoch"),
    }
    first, second = lines(lit)
    assert {*first} == {*second} == names
    assert first["train/loss"] < first["train/largest"]
    assert first["train/last"] != first["train/loss"]
    metrics, best = record(lit)["metrics"], max(first["val/acc"], second["val/acc"])
    assert metrics["val/acc"] == best
    assert {*metrics} == names - {"seconds", "epoch"} | {"test/acc"}
    # The groups that the module does not take are not in the record.
    config = (lit / "config.yaml").read_text()
    assert "loss: {}\n" in config
    assert "scheduler: {}\n" in config
    log = (lit / "log.txt").read_text()
    assert "note: lab.Lit is a LightningModule: batches are trained one by one; a resumed run is exact if all" in log
    assert "a larger val/acc counts as better" in log


def test_tensorboard_has_each_epoch_once(lit: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(lit)).Reload()
    tags = events.Tags()["scalars"]
    assert [point.step for point in events.Scalars("train/loss")] == [1, 2]
    assert [point.value for point in events.Scalars("val/acc")] == pytest.approx([one["val/acc"] for one in lines(lit)])
    assert "mine" in tags
    assert [tag for tag in tags if "early" in tag] == ["train/early", "when_best/train/early"]


def test_commands_on_a_run(run: Path, lamella: Lamella) -> None:
    tested = lamella("eval", str(run))
    assert tested.status == 0, tested.err
    assert f"acc {record(run)['metrics']['test/acc']:.4f}" in tested.out
    shown = lamella("inspect", str(run), "--parameters")
    assert shown.status == 0, shown.err
    assert "Lit(\n  (network): LinearModel(" in shown.out
    assert "network.1.weight" in shown.out
    exported = lamella("export", str(run), "--format", "safetensors")
    assert exported.status == 0, exported.err
    listed = lamella("runs", "--sort", "val/acc")
    assert listed.status == 0, listed.err
    again = lamella("reproduce", str(run))
    assert again.status == 0, again.out + again.err
    [other] = [path for path in run.parent.iterdir() if path != run]
    assert lamella("compare", str(run), str(other)).status == 0


def test_predictions_are_those_of_forward(run: Path, lamella: Lamella, image_root: Path) -> None:
    model = api.load(run)
    images = torch.randint(256, (3, 1, 28, 28), dtype=torch.uint8)
    assert model.predict(images).equal(model.network.eval()(model.preprocess(images)).detach())
    files = sorted(map(str, image_root.rglob("*.png")))[:2]
    result = lamella("predict", str(run), *files, "--out", "numbers.json")
    assert result.status == 0, result.err
    [first, _] = json.loads(Path("numbers.json").read_text())
    assert list(first["prediction"]) == [f"output {number}" for number in range(10)]


@pytest.mark.slow(8)
def test_a_prediction_that_is_no_tensor(lab: None, lamella: Lamella) -> None:
    assert lamella("train", *plain("Predicting")).status == 0
    [run] = Path("outputs/default").iterdir()
    with pytest.raises(
        ValueError, match=r"lab.Predicting.predict_step gives a dict for 1 samples; a prediction is a t"
    ):
        api.load(run).predict(torch.zeros(1, 1, 28, 28))
    tested = lamella("eval", str(run))
    assert (tested.status, tested.err.splitlines()[0]) == (
        2, f"error: {run}: lab.Predicting has no test_step, so it cannot be tested"
    )  # fmt: skip
    exported = lamella("export", str(run), "--format", "pt2")
    assert exported.status == 1
    assert "this network cannot be exported as pt2: lab.Predicting has no forward" in exported.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([*plain("silent")], "task: the function gives a lab.Plain; it has to say so, as in -> Plain"),
        ([*plain("Thing")], "task._target_ is 'lab.Thing'; it takes a subclass of LightningModule"),
        (["task._target_=pytorch_lightning.demos.boring_classes.BoringModel"], "a task is lamella.Task, or a class of"),
        ([*plain("Needy")], "task: Needy needs a value for 'size'"),
        ([*plain("Stepless")], "task: lab.Stepless has no training_step, which training needs"),
        ([*plain("Optimizerless")], "task: lab.Optimizerless has no configure_optimizers, which training needs"),
        ([*plain(), "+task.network=3"], "task.network: Plain has no such argument"),
        (["task._target_=lab.Nope"], "task._target_ is 'lab.Nope', which cannot be imported; known: "),
        ([*LIT, "monitor=val/accuracy"], "val/loss; write monitor=val/loss\n"),
        ([*LIT, "+task.network=3"], "task.network: Lamella gives this argument itself"),
        ([*plain(), "loss=mse"], "loss has no effect: the constructor of lab.Plain has no argument 'loss'"),
        ([*plain(), "optimizer.lr=1"], "optimizer.lr has no effect: the constructor of lab.Plain has no argument 'op"),
        ([*plain(), "network=cnn"], "network has no effect: the constructor of lab.Plain has no argument 'network'"),
        (
            [*LIT, "network.weights=a.pth"],
            "network.weights: lab.Lit is no lamella.Task, and has to load initial weight",
        ),
        ([*LIT, "network.freeze={w:1}"], "network.freeze: lab.Lit is no lamella.Task, and has to thaw parameters by"),
        ([*LIT, "scheduler=cosine"], "scheduler has no effect: lab.Lit makes its schedulers itself; leave scheduler o"),
        ([*plain(), "experiment=mine"], "loss has no effect: the constructor of lab.Plain has no argument 'loss'"),
        ([*plain(), "metrics=[f1]"], "metrics.f1: this task compares no output with the targets"),
        ([*plain(), "trainer.ema=0.9"], "trainer.ema averages the weights of a lamella.Task with one optimizer; leave"),
        ([*plain(), "trainer.early_stopping=2"], "trainer.early_stopping watches a lamella.Task; write trainer.callba"),
        ([*plain(), "trainer.chunk=8"], "trainer.chunk is 8, but the batches of lab.Plain are trained one by one"),
        ([*plain(), "monitor=val/accuracy"], "monitor is 'val/accuracy'; this task gives train/loss"),
        (
            [*plain(), "trainer.callbacks=[{_target_: pytorch_lightning.callbacks.EarlyStopping, monitor: los}]"],
            "trainer.callbacks.0.monitor is 'los'; this task logs loss",
        ),
        ([*plain(), "+task.fails=step"], "task: Plain.training_step fails on a training batch of 256 samples: "),
        ([*plain(), "+task.fails=optimizer"], "task: Adam fails: Invalid learning rate: -1.0"),
        ([*plain(), "+task.fails=saving"], "task: lab.Plain saves in its checkpoints what cannot be read back"),
        ([*plain(), "+task.sizes=[3,10]"], "task: Linear at layer fails on a training batch of 256 samples: "),
        ([*plain("Resting")], "task: lab.Resting.training_step takes no step of an optimizer that self.optimizers() "),
        ([*plain("Resting"), "trainer.gradient_clip_val=1"], "trainer.gradient_clip_val is 1: Automatic gradient cli"),
    ],
)
@pytest.mark.usefixtures("lab")
def test_what_is_refused(lamella: Lamella, project: Project, options: list[str], message: str) -> None:
    project({"experiment/mine.yaml": "# @package _global_\nloss:\n  label_smoothing: 0.1\n"}, lab=LAB)
    result = lamella("train", *options)
    assert result.status == 2, result.out
    assert message in result.err
    assert not Path("outputs").exists()


@pytest.mark.usefixtures("lab")
def test_a_loss_that_is_not_finite_ends_the_run(lamella: Lamella) -> None:
    result = lamella("train", *plain(), "+task.fails=loss")
    assert result.status == 1
    assert "error: NonFiniteLoss: train/loss is inf in epoch 1" in result.err


@pytest.mark.usefixtures("lab")
def test_a_key_that_the_task_reads_has_an_effect(lamella: Lamella) -> None:
    result = lamella("train", *plain(), "+task.fails=${optimizer.fails}", "+optimizer.fails=step")
    assert "task: Plain.training_step fails on a training batch" in result.err


@pytest.mark.slow(8)
@pytest.mark.usefixtures("lab")
def test_a_sweep_ranks_what_is_logged(lamella: Lamella) -> None:
    fused = ("hydra/launcher=fused", "task.noise=0,5", "+trainer.limit_train_batches=2", "trainer.max_epochs=1")
    result = lamella("train", "-m", *(one.replace("task.", "+task.") if "noise" in one else one for one in fused), *LIT)
    assert result.status == 0, result.err
    assert "2 of 2 jobs run alone: task: lab.Lit may have a step of its own" in result.out
    runs = [record(path.parent) for path in Path("outputs").rglob("run.json")]
    best = max(run["metrics"]["val/acc"] for run in runs)
    assert f"{best:.4f}" in result.out


@pytest.mark.slow(20)
def test_a_killed_run_logs_what_it_would_have_logged(tmp_path: Path) -> None:
    """In the middle of an epoch, with means, extremes, metrics of torchmetrics and values of some batches alone."""
    options = (*LIT, "trainer.max_epochs=2", "trainer.checkpoint_every=1steps")
    reference, killed = tmp_path / "reference", tmp_path / "killed"
    for directory in (reference, killed):
        directory.mkdir()
        (directory / "lab.py").write_text(LAB)
        (directory / "pyproject.toml").write_text('[tool.lamella]\ntargets = ["lab"]\n')
    _, printed = kill_and_resume(reference, killed, *options)
    assert "batch" in printed.partition("going on after epoch")[2].partition("\n")[0]
