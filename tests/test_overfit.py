"""`trainer.overfit`: the same batches in each epoch, also for the validation."""

import json
from pathlib import Path
from typing import Any

import programs
import pytest
import torch
from conftest import Lamella, Project
from killed import kill_and_resume

from lamella.config.compose import compose_one
from lamella.experiment.build import prepare_experiment

SMALL = ("device=cpu", "device.threads=1", "visuals=none", "data.batch_size=64")
MESSAGE = "note: trainer.overfit: each epoch trains the same batches, those of the first one, and validates with them"


def the_run() -> Path:
    [path] = Path().glob("outputs/*/*/run.json")
    return path.parent


def epochs(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("network", ["mlp", pytest.param("cnn", marks=pytest.mark.slow)])
def test_a_network_that_works_reaches_a_loss_near_zero(lamella: Lamella, network: str) -> None:
    options = ("trainer.overfit=2", f"network={network}", "trainer.max_epochs=40", "optimizer.lr=3e-3")
    result = lamella("train", *SMALL, *options)
    assert result.status == 0, result.err
    assert result.err.startswith(f"{MESSAGE}; nothing is tested\n")
    record, last = json.loads((the_run() / "run.json").read_text()), epochs(the_run())[-1]
    assert record["steps"] == 80
    assert "test/loss" not in record["metrics"]
    assert last["val/loss"] < 0.05
    assert last["val/accuracy"] == 1


@pytest.mark.parametrize(
    "options", [(), ("data.augment=[{crop: 2}]", "data.in_memory=false")], ids=["plain", "augment"]
)
def test_each_epoch_and_the_validation_have_the_batches_of_the_first_epoch(
    lamella: Lamella, options: tuple[str]
) -> None:
    def batches(*more: str) -> list[list[Any]]:
        data = prepare_experiment(compose_one([*SMALL, *options, *more]).config).data
        return [[one[0] for one in loader] for loader in (data.train_dataloader(), data.val_dataloader())]

    whole = batches()[0]
    train, val = batches("trainer.overfit=2")
    assert all(torch.equal(*pair) for pair in zip(train * 2, [*whole, *val], strict=True))


def test_what_is_trained_is_what_is_validated(lamella: Lamella) -> None:
    """Without a step that changes the weights, both losses are the same, and that of each epoch."""
    options = ("trainer.overfit=3", "data.augment=[flip]", "data.val_size=0", "optimizer=sgd", "optimizer.lr=0")
    assert lamella("train", *SMALL, *options, "network=linear", "trainer.max_epochs=3").status == 0
    losses = {line[f"{stage}/loss"] for line in epochs(the_run()) for stage in ("train", "val")}
    assert len(losses) == 1


@pytest.mark.slow
def test_a_run_that_was_killed_ends_with_the_same_bits(tmp_path: Path) -> None:
    options = (*SMALL, "trainer.overfit=5", "network.dropout=0.2", "data.augment=[flip]", "trainer.max_epochs=3")
    _, printed = kill_and_resume(
        tmp_path / "whole", tmp_path / "killed", *options, "trainer.checkpoint_every=1steps", shares=(0.4, 0.3)
    )
    assert "going on after" in printed


@pytest.mark.slow
def test_chunks_change_no_bit(lamella: Lamella) -> None:
    found = []
    for chunk in (1, 4):
        options = ("trainer.overfit=10", "trainer.max_epochs=2", f"trainer.chunk={chunk}", f"name=chunk{chunk}")
        assert lamella("train", *SMALL, *options).status == 0
        [path] = Path(f"outputs/chunk{chunk}").glob("*/checkpoints/last.ckpt")
        found.append(torch.load(path, weights_only=True)["state_dict"])
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.slow
def test_two_processes(lamella: Lamella, tmp_path: Path) -> None:
    options = ("trainer=ddp", "trainer.overfit=2", "trainer.max_epochs=30", "optimizer.lr=3e-3")
    programs.run(tmp_path, "train", *SMALL, *options)
    assert epochs(the_run())[-1]["val/loss"] < 0.2


@pytest.mark.slow
def test_a_fused_sweep(lamella: Lamella) -> None:
    line = ("train", "-m", *SMALL, "network=linear", "trainer.overfit=1,2", "trainer.max_epochs=3")
    result = lamella(*line, "hydra/launcher=fused", "hydra.launcher.slots=1", "sweep.name=few")
    assert result.status == 0, result.err
    assert "alone:" not in result.out
    steps = [json.loads(path.read_text())["steps"] for path in sorted(Path("outputs/default/few").glob("*/run.json"))]
    assert steps == [3, 6]


STREAM = """
import torch
from torch.utils.data import IterableDataset
from lamella.data import digits

class Digits(IterableDataset):
    def __iter__(self):
        samples = digits(8).train
        for number in torch.randperm(len(samples)).tolist():
            yield samples.inputs[number].float() / 255, int(samples.targets[number])
"""


def test_a_stream_of_unknown_length(lamella: Lamella, project: Project) -> None:
    project(mine=STREAM)
    options = ("data=iterable", "+data.train._target_=mine.Digits", "data.num_classes=10", "trainer.test=false")
    result = lamella("train", *SMALL, *options, "trainer.overfit=2", "trainer.max_epochs=30", "optimizer.lr=3e-3")
    assert result.status == 0, result.err
    assert epochs(the_run())[-1]["val/loss"] < 0.5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("trainer.overfit=0", "trainer.overfit is 0; it takes a number of batches from 1 on, or null"),
        ("trainer.overfit=0.5", "trainer.overfit is 0.5; it takes a number of batches"),
        ("trainer.overfit=true", "trainer.overfit is True; it takes a number of batches"),
        ("trainer.overfit=30", "trainer.overfit is 30, but an epoch has 21 batches; write a smaller number"),
        (
            "trainer.overfit=2; +trainer.limit_train_batches=3",
            "trainer.limit_train_batches is 3, and trainer.overfit=2 sets it; leave one of them out",
        ),
        ("trainer.overfit=2; +trainer.limit_val_batches=0", "trainer.limit_val_batches is 0, and trainer.overfit=2"),
        ("trainer.overfit=2; trainer.test=true", "trainer.test is true, but a run with trainer.overfit is not tested"),
        ("trainer.overfit=2; data.augment=[{mixup: 0.2}]", "data.augment mixes classes, so that the loss stays far"),
        (
            "+trainer.overfit_batches=2",
            "trainer.overfit_batches: Lamella sets this argument of the Trainer; write trainer.overfit, which also",
        ),
    ],
)
def test_what_cannot_be_is_refused(lamella: Lamella, overrides: str, message: str) -> None:
    result = lamella("train", *SMALL, *overrides.split("; "))
    result.check_refusal(message)
