"""`trainer.profile`: where the time of a few steps goes, without a change of what the run computes."""

import json
import re
from pathlib import Path

import programs
import pytest
import torch
from conftest import OWN_MODULE, Lamella, Project
from killed import kill_and_resume

from lamella.config.compose import compose_one
from lamella.sweeps.fused.grouping import FusedGroups

pytestmark = pytest.mark.slow

SMALL = ("device=cpu", "device.threads=1", "visuals=none", "trainer.max_epochs=2")
PROFILED = (*SMALL, "trainer.profile=true")
# An epoch has 21 batches, of which 7 are for the warm-up.
TIMED = "where the time of a batch goes (mean of steps 8 to 14, trained without chunks)\n"


def run_of(name: str) -> Path:
    [path] = Path("outputs").glob(f"{name}/*/run.json")
    return path.parent


def parts(run: Path) -> dict[str, float]:
    """The milliseconds of each part of a step."""
    table = (run / "profile.txt").read_text().partition("operators that take")[0]
    return {name.strip(): float(value) for name, value in re.findall(r"^([a-z ]+?)  +(\d+\.\d+)  ", table, re.M)}


@pytest.mark.parametrize(
    "options",
    [(), ("trainer.chunk=4", "network.dropout=0.2"), ("trainer.accumulate_grad_batches=3", "data.augment=[flip]")],
    ids=["auto", "chunks", "accumulated"],
)
def test_a_profile_changes_no_bit(lamella: Lamella, options: tuple[str, ...]) -> None:
    assert lamella("train", *SMALL, *options, "name=plain").status == 0
    result = lamella("train", *PROFILED, *options, "name=profiled")
    assert (result.status, result.err) == (0, "")
    states = [
        torch.load(run_of(name) / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("plain", "profiled")
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    run = run_of("profiled")
    assert (run / "profile.txt").read_text() in result.out
    assert f"kept in {run}/profile.txt, and the trace in {run}/profile.json\n" in result.out


def test_what_a_profile_holds(lamella: Lamella) -> None:
    assert lamella("train", *PROFILED).status == 0
    run = run_of("default")
    text, found = (run / "profile.txt").read_text(), parts(run)
    assert text.startswith(TIMED)
    assert [*found] == ["data", "forward", "loss", "backward", "optimizer", "the rest", "a batch"]
    assert sum(found.values()) == pytest.approx(2 * found["a batch"], rel=1e-2)
    assert "operators that take the most time (steps 15 to 21, traced by torch.profiler)\n" in text
    assert re.search(r"^aten::addmm +3 ", text, re.M)  # a forward pass of the three layers, and no validation
    names = [event.get("name") for event in json.loads((run / "profile.json").read_text())["traceEvents"]]
    assert [names.count(name) for name in ("forward", "loss", "backward", "optimizer")] == [7] * 4


PAIR = """
first: {_target_: torch.optim.SGD, lr: 0.1, match: [1.*]}
second: {_target_: torch.optim.SGD, lr: 0.1, match: [2.*]}
"""
MINE = """
import torch, pytorch_lightning as pl, lamella
from torch import nn

class Two(lamella.Task):
    def step(self, batch, optimizer):
        loss = self.objective(self.network(batch[0]), batch[1])
        return {"loss": loss}
""" + OWN_MODULE.replace("LAST", "")


def test_a_module_of_the_project(lamella: Lamella, project: Project) -> None:
    project(mine=MINE)
    options = ("task._target_=mine.Own", "monitor=train/loss", "data.val_size=0", "trainer.test=false")
    assert lamella("train", *PROFILED, *options).status == 0
    assert [*parts(run_of("default"))] == ["data", "backward", "optimizer", "the rest", "a batch"]


def test_several_optimizers(lamella: Lamella, project: Project) -> None:
    network = "layers: [Flatten, {Linear: 16}, {Linear: 10}]\n"
    project({"optimizer/pair.yaml": PAIR, "network/two.yaml": network}, mine=MINE)
    result = lamella("train", *PROFILED, "task._target_=mine.Two", "optimizer=pair", "network=two", "monitor=val/loss")
    assert result.status == 0, result.err
    assert {"forward", "backward", "optimizer"} < parts(run_of("default")).keys()


@pytest.mark.slow
def test_two_processes(lamella: Lamella, tmp_path: Path) -> None:
    printed = programs.run(tmp_path, "train", *PROFILED, "trainer=ddp")
    assert printed.count(TIMED) == 1
    assert {"forward", "backward"} < parts(run_of("default")).keys()


@pytest.mark.slow
def test_a_run_that_goes_on_has_its_profile(tmp_path: Path) -> None:
    whole, printed = kill_and_resume(tmp_path / "whole", tmp_path / "killed", *PROFILED, shares=(0.7,))
    assert (whole / "profile.txt").is_file()
    assert TIMED not in printed.partition("going on after")[2]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu(lamella: Lamella) -> None:
    assert lamella("train", "device=cuda", "visuals=none", "trainer.max_epochs=1", "trainer.profile=true").status == 0
    assert re.search(
        r"^operator +calls +ms on the GPU +share\n(aten|Optimizer)",
        (run_of("default") / "profile.txt").read_text(),
        re.M,
    )
    assert [*parts(run_of("default"))] == ["data", "forward", "loss", "backward", "optimizer", "the rest", "a batch"]


def test_a_window_is_within_an_epoch(lamella: Lamella) -> None:
    """An epoch of two batches has no room for the three windows of one batch."""
    result = lamella("train", *PROFILED, "data.batch_size=800")
    assert "(mean of steps 2 to 2, trained without chunks)\n" in result.out
    assert "(steps 3 to 3, traced by torch.profiler)\n" in result.out


def test_runs_that_are_too_short(lamella: Lamella) -> None:
    result = lamella("train", *PROFILED, "data.batch_size=800", "trainer.max_epochs=1")
    assert result.status == 0
    assert "trainer.profile: the run has 2 batches left, and a profile takes 3\n" in result.out
    stop = "trainer.callbacks=[{_target_: pytorch_lightning.callbacks.EarlyStopping, monitor: val/loss, "
    result = lamella("train", *PROFILED, "data.batch_size=800", f"{stop}stopping_threshold: 99}}]")
    assert "trainer.profile: the run has ended after 2 batches, before its profile was done\n" in result.out


def test_runs_of_a_fused_sweep_are_profiled_alone() -> None:
    assert FusedGroups(2).kind(compose_one(["trainer.profile=true"]).config)[1] == (
        "trainer.profile is for one run in a process"
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("trainer.profile=3", "trainer.profile is 3; it takes true or false"),
        (
            "trainer.profile=true; +trainer.profiler=simple",
            "trainer.profile measures some steps, and trainer.profiler all of them; leave one of them out",
        ),
    ],
)
def test_what_cannot_be_is_refused(lamella: Lamella, overrides: str, message: str) -> None:
    result = lamella("train", *SMALL, *overrides.split("; "))
    result.check_refusal(message)
