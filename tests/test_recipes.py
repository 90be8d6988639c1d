"""Small keys of a recipe: averages of the weights, early stopping, kept checkpoints and balanced classes."""

import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kill
import programs
import pytest
import torch
import yaml
from conftest import Lamella, Project, Shared
from torch import Tensor

from lamella import load
from lamella.config.compose import compose_one
from lamella.data import digits
from lamella.sweeps.fused.grouping import FusedGroups

SMALL = ("device=cpu", "device.threads=1", "data.batch_size=400", "network.depth=1", "network.width=16", "visuals=none")
CALLBACK = "trainer.callbacks=[{_target_: pytorch_lightning.callbacks."
STILL = "optimizer.lr=1e-12"  # no epoch is better than the first one


def the_run(directory: Path) -> Path:
    [path] = directory.glob("outputs/*/*/run.json")
    return path.parent


def record(run: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((run / "run.json").read_text())
    return fields


def checkpoint(run: Path, name: str = "last") -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True)
    return loaded


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(map(torch.equal, one.values(), other.values()))


# Keeps the weights after each step, which chunks of one batch let a callback see.
KEEP = """import pytorch_lightning as pl


class Keep(pl.Callback):
    steps = []

    def on_train_batch_end(self, trainer, module, *_):
        self.steps.append({name: value.clone() for name, value in module.state_dict().items()})
"""


@pytest.fixture(scope="module")
def averaged(shared: Shared) -> Path:
    """Three epochs of four steps with chunks, with an average after each step; the two best epochs are kept."""
    options = ("trainer.ema=0.8", "trainer.keep_top=2", "trainer.chunk=3", "trainer.max_epochs=3", "monitor=val/loss")
    return the_run(shared("averaged", lambda path: programs.run(path, "train", *SMALL, *options)))


def test_a_moving_average_is_taken_after_each_step(lamella: Lamella, project: Project, averaged: Path) -> None:
    project(mine=KEEP)
    options = ("trainer.ema=0.8", "trainer.max_epochs=3", "trainer.callbacks=[{_target_: mine.Keep}]")
    assert lamella("train", *SMALL, *options, "monitor=val/loss").status == 0
    found, chunked = checkpoint(the_run(Path())), checkpoint(averaged)
    assert same(found["state_dict"], chunked["state_dict"])
    first, *steps = sys.modules["mine"].Keep.steps
    assert same(found["current_model_state"], steps[-1])
    assert len(steps) == 11
    for step in steps:
        for name, value in first.items():
            value.copy_(value.lerp(step[name], 1 - 0.8) if value.is_floating_point() else step[name])
    assert same(found["state_dict"], first)
    assert any(name.endswith("running_var") for name in first)


def test_training_is_the_same_with_an_average(lamella: Lamella, averaged: Path) -> None:
    assert lamella("train", *SMALL, "trainer.max_epochs=3", "trainer.swa=2", "monitor=val/loss").status == 0
    found, other = checkpoint(the_run(Path())), checkpoint(averaged)
    assert same(found["current_model_state"], other["current_model_state"])
    # The weights at the ends of epochs 2 and 3, of which the first is in no average but in the checkpoint after it.
    ends = [checkpoint(the_run(Path()), name)["current_model_state"] for name in ("previous", "last")]
    for name, value in found["state_dict"].items():
        mean = (ends[0][name] + ends[1][name]) / 2 if value.is_floating_point() else ends[1][name]
        torch.testing.assert_close(value, mean)


def test_every_command_takes_the_average(lamella: Lamella, averaged: Path) -> None:
    fields = record(averaged)
    assert fields["best_weights"] == "averaged"
    assert "\nweights     averaged\n" in (averaged / "log.txt").read_text()
    result = lamella("eval", str(averaged), "--out", "eval.json")
    assert "note: the weights of best.ckpt are averaged\n" in result.err
    found = json.loads(Path("eval.json").read_text())
    assert found["weights"] == "averaged"
    assert found["metrics"] == {key: value for key, value in fields["metrics"].items() if key.startswith("test/")}
    weights = {f"network.{name}": value for name, value in load(averaged).network.state_dict().items()}
    assert same(weights, checkpoint(averaged, "best")["state_dict"])
    assert "note: the weights of best.ckpt are averaged\n" in lamella("inspect", str(averaged)).err


def test_the_best_epochs_are_kept(lamella: Lamella, averaged: Path) -> None:
    names = {file.stem for file in averaged.glob("checkpoints/*")}
    assert names == {"best", "last", "previous", "epoch-002", "epoch-003"}
    lines = [json.loads(line) for line in (averaged / "metrics.jsonl").read_text().splitlines()]
    losses = {line["epoch"]: line["val/loss"] for line in lines}
    assert losses[1] > max(losses[2], losses[3])
    for epoch in (2, 3):
        assert checkpoint(averaged, f"epoch-{epoch:03}")["callbacks"]["Checkpoints"]["epochs"] == epoch
    result = lamella("eval", str(averaged), "--checkpoint", "epoch-002", "--out", "eval.json")
    assert result.status == 0, result.err
    assert json.loads(Path("eval.json").read_text())["checkpoint"].endswith("checkpoints/epoch-002.ckpt")
    assert not same(load(averaged, "epoch-002").network.state_dict(), load(averaged).network.state_dict())
    result = lamella("predict", str(averaged), "x.png", "--checkpoint", "epoch-001")
    assert result.status == 2
    assert "epoch-001: there is no such checkpoint; the run has " in result.err
    assert "checkpoints/epoch-002.ckpt" in result.err


def test_of_equal_epochs_the_later_ones_are_kept(lamella: Lamella) -> None:
    options = (STILL, "network=linear", "trainer.keep_top=2", "trainer.max_epochs=4", "+trainer.limit_train_batches=1")
    assert lamella("train", *SMALL[:3], *options, "optimizer.lr=0").status == 0
    assert {file.stem for file in the_run(Path()).glob("checkpoints/epoch-*")} == {"epoch-003", "epoch-004"}


def test_an_average_of_lightning_is_tested_as_it_is_saved(lamella: Lamella) -> None:
    options = (f"{CALLBACK}EMAWeightAveraging,decay: 0.8}}]", "trainer.max_epochs=1")
    assert lamella("train", *SMALL, *options).status == 0
    run = the_run(Path())
    assert record(run)["best_weights"] == "averaged"
    assert lamella("eval", str(run)).status == 0
    found = json.loads((run / "eval.json").read_text())["metrics"]
    assert found == {key: value for key, value in record(run)["metrics"].items() if key.startswith("test/")}


@pytest.mark.slow
def test_a_run_ends_early_and_goes_on_with_more_patience(lamella: Lamella, tmp_path: Path) -> None:
    options = ("train", *SMALL, STILL, "trainer.max_epochs=7", "monitor=val/accuracy")
    result = lamella(*options, "trainer.early_stopping=2")
    run = the_run(Path())
    why = "EarlyStopping: val/accuracy was not better in 2 epochs"
    assert f"stopped     after epoch 3 ({why})\n" in result.out
    fields = record(run)
    assert (fields["status"], fields["epochs"], fields["stopped"]) == ("finished", 3, why)
    assert "trainer.early_stopping=… trains on\n" in lamella("resume", str(run)).out
    before = (run / "run.json").read_bytes()
    result = lamella("resume", str(run), "trainer.early_stopping=1")
    assert (result.status, before) == (2, (run / "run.json").read_bytes())
    assert "error: trainer.early_stopping is 1, and was 2 so far; a resumed run takes a larger number or null" in (
        result.err
    )
    assert lamella("resume", str(run), "trainer.early_stopping=3").status == 0
    assert (record(run)["epochs"], record(run)["stopped"]) == (4, why.replace("2", "3"))
    other = tmp_path / "other"
    assert kill.lamella(other, *options, "trainer.early_stopping=3") == 0
    assert [one for one in kill.differences(the_run(other), run) if "patience" not in one] == []
    assert lamella("resume", str(run), "trainer.early_stopping=null").status == 0
    assert (record(run)["epochs"], record(run)["stopped"]) == (7, None)


def test_epochs_without_validation_do_not_count(lamella: Lamella) -> None:
    every = "+trainer.check_val_every_n_epoch=2"
    options = ("network=linear", STILL, "trainer.early_stopping=1", "trainer.max_epochs=9", every)
    assert lamella("train", *SMALL[:3], "visuals=none", *options).status == 0
    assert record(the_run(Path()))["epochs"] == 4


def test_balanced_classes_are_weights_in_the_record(lamella: Lamella) -> None:
    """They are those of scikit-learn, of the training samples of the fold, and `load` needs no data for them."""
    folds = ("data.folds=3", "data.fold=1", "network=linear", "trainer.max_epochs=1")
    result = lamella("train", *SMALL[:3], "visuals=none", "loss.weight=balanced", *folds)
    assert result.status == 0, result.err
    run = the_run(Path())
    weights = yaml.safe_load((run / "config.yaml").read_text())["loss"]["weight"]
    rows = (run / "folds.csv").read_text().splitlines()[1:]
    labels = digits().train.targets.tolist()
    taken = [labels[int(row.split(",")[0])] for row in rows if row.split(",")[1] not in ("1", "test")]
    counts = Counter(taken)
    assert weights == pytest.approx([len(taken) / (10 * counts[label]) for label in range(10)])
    assert load(run).objective.loss.weight.tolist() == weights  # type: ignore[operator]
    assert lamella("eval", str(run)).status == 0
    found = json.loads((run / "eval.json").read_text())["metrics"]
    assert found == {key: value for key, value in record(run)["metrics"].items() if key.startswith("test/")}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("trainer.ema=1.0", "trainer.ema is 1.0; it takes a decay between 0 and 1, such as 0.999, or null"),
        ("trainer.ema=true", "trainer.ema is True; it takes a decay"),
        ("trainer.swa=0", "trainer.swa is 0; it takes a number of epochs from 1 on, or null"),
        ("trainer.early_stopping=1.5", "trainer.early_stopping is 1.5; it takes a number of epochs"),
        ("trainer.keep_top=-1", "trainer.keep_top is -1; it takes a number of epochs"),
        ("trainer.ema=0.9; trainer.swa=2", "trainer.swa is 2, and trainer.ema is 0.9: a run has one average"),
        (
            "trainer.swa=3; trainer.max_epochs=2",
            "trainer.swa is 3, but the run ends after epoch 2 (trainer.max_epochs)",
        ),
        ("trainer.ema=0.9; device.precision=bf16-true", "use device.precision=bf16-mixed"),
        (
            f"trainer.ema=0.9; {CALLBACK}EMAWeightAveraging}}]",
            "trainer.ema does what trainer.callbacks.0, EMAWeightAveraging, does; leave one out",
        ),
        (
            f"trainer.early_stopping=2; {CALLBACK}EarlyStopping,monitor: val/loss}}]",
            "trainer.early_stopping does what trainer.callbacks.0, EarlyStopping, does; leave one out",
        ),
        (
            "trainer.early_stopping=2; +trainer.limit_val_batches=0",
            "trainer.early_stopping goes by val/accuracy (monitor), and the trainer's limits leave no validation",
        ),
        ("trainer.keep_top=2; +trainer.limit_val_batches=0", "trainer.keep_top goes by val/accuracy (monitor)"),
        ("loss.weight=balance", "loss.weight is 'balance'; it takes balanced, a list of numbers, or null"),
        ("loss=mse; +loss.weight=balanced", "MSELoss takes no weight for each class; take loss=cross_entropy"),
        ("loss=bce_with_logits; +loss.weight=balanced", "BCEWithLogitsLoss takes no weight for each class"),
        ("data=diabetes; loss.weight=balanced", "the targets of these samples are no classes; leave it null"),
        ("data.sampler=balanced; loss.weight=balanced", "data.sampler draws rare classes more often already"),
        (
            f"data.num_classes=12; data.classes={list('abcdefghijkl')}; loss.weight=balanced".replace("'", ""),
            "there is no training sample of k, l; write a list",
        ),
    ],
)
def test_what_cannot_be_is_refused(lamella: Lamella, overrides: str, message: str) -> None:
    result = lamella("train", "network=linear", "device=cpu", *overrides.split("; "))
    assert result.status == 2, result.err
    assert message in result.err
    assert not Path("outputs").exists()


def test_a_decay_too_large_for_the_run_is_noted(lamella: Lamella) -> None:
    result = lamella("train", *SMALL[:3], "network=linear", "visuals=none", "trainer.ema=0.99", "trainer.max_epochs=1")
    assert result.status == 0
    assert "note: trainer.ema is 0.99, an average over about 100 steps, and the run takes 4, so that" in result.err


@pytest.mark.slow
def test_members_of_a_fused_sweep(lamella: Lamella) -> None:
    line = ("train", "-m", *SMALL[:3], "network=linear", "visuals=none", "seed=0,1", "hydra/launcher=fused")
    keys = ("trainer.swa=2", "trainer.early_stopping=2", "trainer.keep_top=1", "loss.weight=balanced")
    result = lamella(*line, "hydra.launcher.slots=1", "sweep.name=swa", *keys, STILL, "trainer.max_epochs=5")
    assert result.status == 0, result.err
    assert "alone:" not in result.out
    for run in (path.parent for path in Path("outputs/default/swa").glob("*/run.json")):
        assert (record(run)["epochs"], record(run)["best_weights"]) == (3, "averaged")
        assert [file.stem for file in run.glob("checkpoints/epoch-*")] == [f"epoch-{record(run)['best_epoch']:03}"]
    alone = FusedGroups(2).kind(compose_one(["trainer.ema=0.5"]).config)[1]
    assert alone == "trainer.ema averages the weights after each step"
