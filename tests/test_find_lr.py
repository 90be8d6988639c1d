"""`lamella find lr`: a short training with a rising learning rate, and the rate at which the loss falls fastest."""

import re
import sys
from pathlib import Path

import pytest
import torch
from conftest import Lamella, Project, contents
from PIL import Image
from torch import nn

from lamella.config.compose import compose_one
from lamella.errors import RequestError
from lamella.experiment.build import prepare_experiment
from lamella.experiment.find_rate import run_range_test
from lamella.training.range_test import FIRST, LAST, STEPS, LossCurve, rate_at, rising_rates

SMALL = ("device=cpu", "device.threads=1")


def suggested(printed: str) -> float:
    match = re.search(r"^suggestion  optimizer\.lr=(\S+)$", printed, re.M)
    assert match, printed
    return float(match[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "low", "high"),
    [
        (("network=mlp",), 1e-4, 1e-2),
        (("network=mlp", "optimizer=sgd", "scheduler=one_cycle", "trainer.ema=0.9"), 1e-3, 0.3),
        (("data=diabetes", "network=mlp", "loss=mse", "monitor=val/loss"), 1e-4, 3e-2),
    ],
    ids=["adam", "sgd", "numbers"],
)
def test_the_suggestion_is_a_rate_that_trains_well(
    lamella: Lamella, options: tuple[str, ...], low: float, high: float
) -> None:
    first, second = (lamella("find", "lr", *SMALL, *options) for _ in range(2))
    assert first.status == 0, first.err
    assert first.out == second.out
    assert low <= suggested(first.out) <= high
    assert "learning rate  loss\n1.0e-08        " in first.out
    assert "  falls fastest\n" in first.out
    assert first.out.endswith("curve       find-lr.png\n")
    with Image.open("find-lr.png") as picture:
        assert min(picture.size) > 200
    assert [*contents(Path())] == ["find-lr.png"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu(lamella: Lamella) -> None:
    result = lamella("find", "lr", "device=cuda", "network=mlp")
    assert result.status == 0, result.err
    assert 1e-4 <= suggested(result.out) <= 1e-2


@pytest.mark.slow
def test_the_rate_of_an_override_makes_no_difference(lamella: Lamella) -> None:
    rates = {suggested(lamella("find", "lr", *SMALL, f"optimizer.lr={rate}").out) for rate in (1e-3, 0.5)}
    assert len(rates) == 1


@pytest.mark.slow
def test_an_optimizer_whose_config_has_no_rate(lamella: Lamella, project: Project) -> None:
    project({"optimizer/plain.yaml": "_target_: torch.optim.Adam\n"})
    printed = lamella("find", "lr", *SMALL, "optimizer=plain", "network=linear").out
    match = re.search(r"^suggestion  (\+optimizer\.lr=\S+)$", printed, re.M)
    assert match
    options = (*SMALL, "optimizer=plain", "network=linear", "visuals=none", "trainer.max_epochs=1")
    assert lamella("train", *options, match[1]).status == 0


def test_another_name_of_the_picture(lamella: Lamella) -> None:
    assert lamella("find", "lr", "--plot", "sgd.svg", *SMALL, "network=linear").status == 0
    assert [*contents(Path())] == ["sgd.svg"]


def test_without_matplotlib(lamella: Lamella, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "error: --plot needs matplotlib; " in lamella("find", "lr", "--plot", "x.png").err


@pytest.mark.slow
def test_accumulated_gradients_and_the_end_of_a_stream_of_batches(lamella: Lamella) -> None:
    """A point is the mean over the batches of an optimizer step, of which the last one of an epoch has fewer."""
    job = compose_one([*SMALL, "network=linear", "trainer.accumulate_grad_batches=5"])
    curve = run_range_test(prepare_experiment(job.config), job.config["trainer"])
    assert min(curve.losses[:50]) > 2


def test_parameter_groups_keep_their_proportions() -> None:
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": [parameters[0]], "lr": 1e-2}, {"params": [parameters[1]], "lr": 1e-3}]
    optimizer = torch.optim.SGD(groups)
    scheduler = rising_rates().make(optimizer, None)
    for step in range(STEPS):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate_at(step))
        assert optimizer.param_groups[1]["lr"] == pytest.approx(rate_at(step) / 10)
        optimizer.step()
        scheduler.step()
    assert (rate_at(0), rate_at(STEPS - 1)) == pytest.approx((FIRST, LAST))


def test_a_rate_of_zero_has_no_proportions() -> None:
    with pytest.raises(RequestError, match=r"optimizer\.lr is 0, and each parameter group gets its own rate times one"):
        rising_rates().make(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.0), None)


@pytest.mark.parametrize("end", [9.0, float("nan"), float("inf")])
def test_a_curve_ends_where_the_loss_diverges(end: float) -> None:
    curve = LossCurve()
    for step in range(60):
        curve.add(2.0 if step < 20 else max(0.5, 2.0 - 0.1 * (step - 20)))
        assert not curve.diverged
    for _ in range(20):
        curve.add(end)
    assert curve.diverged
    best = curve.best()
    assert best is not None
    assert 20 <= best <= 40


DEAF = """
from torch import nn

class Deaf(nn.Module):
    def forward(self, x):
        return 0 * x
"""


@pytest.mark.slow
def test_a_loss_that_falls_at_no_rate(lamella: Lamella, project: Project) -> None:
    project({"network/deaf.yaml": "layers: [Flatten, Linear: 10, {_target_: mine.Deaf}]\n"}, mine=DEAF)
    result = lamella("find", "lr", *SMALL, "network=deaf")
    assert result.status == 1
    assert "suggestion  none, the loss falls at no rate; see whether it falls with trainer.overfit=4 at all" in (
        result.out
    )


SIGNS = """
import torch

class Signs(torch.optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, {})

    def step(self, closure=None):
        return closure() if closure else None
"""
PAIR = """
first: {_target_: torch.optim.SGD, lr: 0.1, match: [0.*, 1.*]}
second: {_target_: torch.optim.SGD, lr: 0.1, match: '[!01]*'}
"""
OWN = """
import torch, pytorch_lightning as pl
from torch import nn

class Own(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    def training_step(self, batch, number):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "lamella find takes lr; `lamella find --help` says more"),
        ("rate", "there is no 'rate' to find; write `lamella find lr`, with overrides after it"),
        ("lr -m seed=0,1", "find trains one network; leave -m out, and give each key one value"),
        ("lr --plot x.abc", "--plot x.abc: the name has to end in a known format: "),
        ("lr --plot no/x.png", "--plot no/x.png: there is no folder no"),
        ("lr optimizer.lr=0", "optimizer.lr is 0, and each parameter group gets its own rate times one factor"),
        ("lr optimizer.lrr=1", "optimizer.lrr: there is no such key; did you mean lr?"),
        ("lr network=cnn device.channels_last=auto", "device.channels_last is auto, which is measured when a run beg"),
        ("lr network=mine", "network=mine: there is no such option; known: "),
        ("lr optimizer=signs", "optimizer: Signs has no learning rate; it takes the argument `lr`"),
        ("lr optimizer=pair", "optimizer: first and second take turns, and the best rate of one depends on that of"),
        ("lr task._target_=mine.Own monitor=train/loss", "task: mine.Own is a LightningModule that makes its opt"),
    ],
)
def test_what_cannot_be_found(lamella: Lamella, project: Project, arguments: str, message: str) -> None:
    project({"optimizer/signs.yaml": "_target_: mine.Signs\n", "optimizer/pair.yaml": PAIR}, mine=SIGNS + OWN)
    before = [*contents(Path())]
    result = lamella("find", *arguments.split())
    assert result.status == 2, result.out + result.err
    assert message in result.err
    assert [name for name in contents(Path()) if "__pycache__" not in str(name)] == before


def test_the_suggestion_keeps_the_proportion_of_groups(lamella: Lamella) -> None:
    groups = "optimizer.groups=[{match: 2.*, lr: 1e-2}, {match: norms, lr: '${optimizer.lr}'}]"
    result = lamella("find", "lr", groups, "device=cpu", "device.threads=1")
    assert result.status == 0, result.err
    [suggestion] = [line for line in result.out.splitlines() if line.startswith("suggestion")]
    rate, other = (float(text.partition("=")[2]) for text in suggestion.split()[1:])
    assert "optimizer.groups.0.lr=" in suggestion
    assert other == pytest.approx(10 * rate, rel=0.1)
