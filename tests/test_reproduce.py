"""`lamella reproduce`: trained again from the record, and compared bit for bit."""

import json
import re
import shutil
from pathlib import Path

import programs
import pytest
import torch
from conftest import Lamella, contents

from lamella.runs.checkpoints import VerifiedCheckpointIO, read_weights


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


@pytest.mark.slow
def test_the_same_bits(lamella: Lamella, run: Path) -> None:
    before = contents(run)
    result = lamella("reproduce", str(run))
    assert result.status == 0, result.err
    assert (
        f"reproduced: the weights of best.ckpt and last.ckpt, and every metric of 2 epochs, bit for bit those of {run}"
        in result.out
    )
    assert contents(run) == before
    again = Path("outputs/default/run_2")
    one, other = (read_weights(path / "checkpoints/last.ckpt") for path in (run, again))
    assert all(torch.equal(one[name], other[name]) for name in one)
    record = json.loads((again / "run.json").read_text())
    assert (record["reproduces"], record["overrides"]) == (str(run), ["trainer.max_epochs=2", "device.threads=1"])
    assert lamella("reproduce", str(again)).status == 0


@pytest.mark.slow
def test_what_the_record_left_to_the_machine_is_as_it_was(lamella: Lamella, run: Path) -> None:
    assert lamella("train", "trainer.max_epochs=1").status == 0
    run = Path("outputs/default/trainer.max_epochs=1")
    threads = json.loads((run / "run.json").read_text())["environment"]["threads"]
    torch.set_num_threads(1)
    assert lamella("reproduce", str(run)).status == 0
    config = Path("outputs/default/trainer.max_epochs=1_2/config.yaml").read_text()
    assert f"threads: {threads}\n" in config
    assert "accelerator: cpu\n" in config


@pytest.mark.slow
def test_what_differs_is_named(lamella: Lamella, run: Path) -> None:
    line = json.loads((run / "metrics.jsonl").read_text().splitlines()[1])
    change(run / "metrics.jsonl", str(line["val/loss"]), "0.125")
    change(run / "run.json", '"torch": "2.', '"torch": "1.')
    change(run / "run.json", '"git": null', '"git": {"commit": "abc", "dirty": false}')
    result = lamella("reproduce", str(run))
    assert result.status == 1
    assert "NOT reproduced; the only difference:" in result.out
    assert f"  epoch 2, val/loss: {line['val/loss']} instead of 0.125" in result.out
    assert re.search(r"versions torch: 2\.\S+ instead of 1\.", result.out)
    assert "git commit: None instead of abc" in result.out
    (run / "git.patch").write_text("x")
    assert "  git.patch: other uncommitted changes\n" in lamella("reproduce", str(run)).out


@pytest.mark.slow
def test_other_weights_are_named(lamella: Lamella, run: Path) -> None:
    for name in ("best", "last"):
        file = run / f"checkpoints/{name}.ckpt"
        checkpoint = torch.load(file, weights_only=True)
        weight = checkpoint["state_dict"]["network.2.weight"]
        weight.view(torch.int32)[0, 0] ^= 1  # the last bit of one number
        file.unlink()
        VerifiedCheckpointIO().save_checkpoint(checkpoint, file)
    result = lamella("reproduce", str(run))
    assert result.status == 1
    assert "best.ckpt: 1 of " in result.out
    assert "tensors, the first is network.2.weight" in result.out
    assert "differences between the two environments:\n  none is recorded" in result.out


def test_of_an_interrupted_run_what_there_is(lamella: Lamella, run: Path) -> None:
    change(run / "run.json", '"finished"', '"interrupted"')
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text(lines[0])
    result = lamella("reproduce", str(run))
    assert result.status == 0
    assert "the run is interrupted: its 1 epochs are compared, and not its final result" in result.out
    assert "reproduced: every metric of 1 epochs, bit for bit" in result.out
    (run / "metrics.jsonl").unlink()
    nothing = lamella("reproduce", str(run))
    assert nothing.status == 2
    assert "it has not finished an epoch, so there is nothing to compare with" in nothing.err


def test_what_there_is_to_compare_with_is_looked_at_first(lamella: Lamella, run: Path) -> None:
    (run / "checkpoints/last.ckpt").unlink()
    before = contents(Path())
    result = lamella("reproduce", str(run))
    assert result.status == 2
    assert "last.ckpt: there is no such checkpoint" in result.err
    assert contents(Path()) == before


@pytest.mark.slow
def test_data_that_has_moved(lamella: Lamella, mnist_root: Path) -> None:
    shutil.copytree(mnist_root, "here")
    mnist = ("data=mnist", "data.root=here", "data.download=false", "data.val_size=50", "trainer.max_epochs=1")
    assert lamella("train", *mnist).status == 0
    [run] = Path("outputs/default").iterdir()
    Path("here").rename("there")
    assert lamella("reproduce", str(run)).status == 2
    assert "reproduced: the weights" in lamella("reproduce", str(run), "data.root=there").out
    refused = lamella("reproduce", str(run), "seed=1")
    assert (refused.status, "seed has to be as it was in the run" in refused.err) == (2, True)


@pytest.mark.slow(25)
def test_two_processes(lamella: Lamella) -> None:
    """Lightning starts the second one with the command line of the first."""
    ddp = ("trainer=ddp", "trainer.devices=2", "device=cpu", "network=linear", "trainer.max_epochs=1")
    for arguments in (["train", *ddp], ["reproduce", f"outputs/default/{','.join(sorted(ddp))}"]):
        printed = programs.run(Path(), *arguments)
    assert "reproduced: the weights of best.ckpt" in printed


@pytest.mark.parametrize("line", ["{x", "[1]"])
def test_damaged_metrics(lamella: Lamella, run: Path, line: str) -> None:
    (run / "metrics.jsonl").write_text(f"{line}}}\n")
    result = lamella("reproduce", str(run))
    assert result.status == 2
    assert f"{run}/metrics.jsonl is damaged" in result.err
