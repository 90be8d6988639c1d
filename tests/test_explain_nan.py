"""`lamella explain-nan`: the first number of a run that is not finite, found by a second pass."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from conftest import OWN_MODULE, Lamella, Project, contents
from torch import nn

from lamella.runs.writer import RunWriter

pytestmark = pytest.mark.slow

SMALL = ("device=cpu", "device.threads=1", "data.batch_size=400", "visuals=none", "trainer.max_epochs=3")
MINE = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
from lamella.data import digits

class Counting(nn.Module):
    def __init__(self, at=6):
        super().__init__()
        self.at = at
        self.register_buffer("count", torch.zeros(()))
    def due(self):
        self.count += self.training
        return self.training and int(self.count) == self.at

class Late(Counting):
    # Gives NaN in one batch.
    def forward(self, x):
        return x * float("nan") if self.due() else x

class Root(Counting):
    # Is finite, and its derivative is not in one batch.
    def forward(self, x):
        return x + (0 * x).sqrt() if self.due() else x

class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.mask, self.late = Mask(), Late(3)
    def forward(self, x):
        return self.late(x) + self.mask(x).softmax(1)

class Mask(nn.Module):
    # Gives infinities that do no harm.
    def forward(self, x):
        return x.masked_fill(torch.arange(x.shape[1]) > 3, float("-inf"))

class Inner(nn.Module):
    # Computes something itself, between its layers.
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(784, 16), nn.Linear(16, 10)
    def forward(self, x):
        return self.second(torch.log(self.first(x.flatten(1))))

class Tested(nn.Module):
    def forward(self, x):
        return x if self.training else x / 0

def spoiled():
    samples = digits(8).train
    inputs = samples.inputs.float() / 255
    inputs[7, 0, 0, 0] = float("inf")
    return TensorDataset(inputs, samples.targets)
"""
OWN = """
import torch, pytorch_lightning as pl
from torch import nn
from mine import Late
""" + OWN_MODULE.replace("LAST", ", Late(2)")
NETWORKS = {
    "late": "layers: [Flatten, {Residual: [{Linear: 784}, {_target_: mine.Late}]}, {Linear: 10}]\n",
    "root": "layers: [Flatten, {Linear: 16}, {_target_: mine.Root}, {Linear: 10}]\n",
    "last": "layers: [Flatten, {Linear: 16}, {_target_: mine.Root, at: 4}, {Linear: 10}]\n",
    "masked": "layers: [Flatten, {Linear: 10}, {_target_: mine.Masked}]\n",
    "inner": "_target_: mine.Inner\n",
    "tested": "layers: [Flatten, {Linear: 10}, {_target_: mine.Tested}]\n",
}


@pytest.fixture
def mine(project: Project) -> None:
    project({f"network/{name}.yaml": text for name, text in NETWORKS.items()}, mine=MINE, own=OWN)


def explained(lamella: Lamella, *options: str, status: int = 1) -> dict[str, str]:
    """Train a run that ends with such a status, and return the lines of its explanation by their titles."""
    result = lamella("train", *SMALL, *options)
    assert result.status == status, result.err
    [path] = Path().glob("outputs/*/*/run.json")
    if status:
        assert f"  to see where it began: lamella explain-nan {path.parent}\n" in result.err
    before = contents(path.parent)
    result = lamella("explain-nan", str(path.parent))
    assert result.status == 0, result.out + result.err
    assert contents(path.parent) == before
    lines = [line for line in result.out.splitlines() if re.match(r"\S+ ?\S* {2,}", line)]
    return {line[:12].strip(): line[12:] for line in lines}


@pytest.mark.usefixtures("mine")
class TestFound:
    def test_an_output_in_a_later_epoch(self, lamella: Lamella) -> None:
        """Epoch 1 has 4 steps; the second pass goes on after it."""
        found = explained(lamella, "network=late", "data.augment=[flip]", "optimizer=sgd")
        assert found["where"] == "training, at step 6 (epoch 2, batch 2)"
        assert found["first"].startswith("the output of network.layers.1.Residual.1 (Late): 313,600 NaN of 313,600 val")
        assert re.match(r"-\d\.\d+ to \d\.\d+", found["its input"])
        assert found["then"] == "the loss is nan"
        assert found["rate"] == "0.1"
        assert found["try"].startswith("an epsilon or a clamp in this layer")

    def test_a_rate_that_is_too_large(self, lamella: Lamella) -> None:
        found = explained(lamella, "network=mlp", "optimizer=sgd", "optimizer.lr=1e25")
        place = "network.layers.1.Repeat.layers.0, in the module network.1.1.0 (Linear)"
        assert found["first"].startswith(f"the output of {place}: ")
        assert found["where"] == "training, at step 2 (epoch 1, batch 2)"
        assert {"weight", "bias", "its input"} < found.keys()
        assert found["try"].startswith("a smaller optimizer.lr, scheduler.warmup_steps=100, or trainer.gradient_clip")

    def test_a_gradient_of_a_finite_loss(self, lamella: Lamella) -> None:
        """The loss is finite in the step, and not in the next one."""
        found = explained(lamella, "network=root")
        assert found["where"] == "training, at step 6 (epoch 2, batch 2)"
        assert found["first"].startswith("the gradient of bias in network.layers.1 (Linear): 16 NaN of 16 values")
        assert found["then"] == "the gradient of network.1.bias is not finite, and the loss is"
        assert found["try"].startswith("an epsilon in what follows this layer")

    def test_a_gradient_in_the_last_step_of_a_run(self, lamella: Lamella) -> None:
        """The run is finished, and its checkpoint holds what is not finite."""
        options = ("data.val_size=0", "monitor=train/loss", "trainer.test=false", "trainer.max_epochs=1")
        found = explained(lamella, "network=last", "data.test_size=0.2", *options, status=0)
        assert found["where"] == "training, at step 4 (epoch 1, batch 4)"
        assert found["first"].startswith("the gradient of bias in network.layers.1 (Linear): ")

    def test_a_step_of_the_optimizer(self, lamella: Lamella) -> None:
        found = explained(lamella, "network=linear", "+optimizer.eps=0", "data.mean=0", "data.std=1")
        assert found["where"] == "training, at step 1 (epoch 1, batch 1)"
        assert found["first"].startswith("the weight of weight in network.layers.1 (Linear): ")
        assert found["then"] == "the step of the optimizer gave such a weight, from finite gradients"
        assert found["gradient"].endswith(" are 0")
        assert found["try"].startswith("optimizer.eps=1e-8: ")

    def test_a_weight_with_which_the_network_begins(self, lamella: Lamella) -> None:
        weights = nn.Linear(784, 10).state_dict()
        torch.save({f"1.{name}": value * float("nan") for name, value in weights.items()}, "nan.pth")
        found = explained(lamella, "network=linear", "network.weights=nan.pth")
        assert found["first"].startswith("the weight of weight in network.layers.1 (Linear): 7,840 NaN of 7,840 values")
        assert (found["then"], found["try"]) == ("the network begins with such a weight", "look at network.weights")

    def test_a_checkpoint_within_the_first_epoch(self, lamella: Lamella) -> None:
        assert lamella("train", *SMALL, "network=masked", "trainer.checkpoint_every=1steps").status == 1
        [path] = Path().glob("outputs/*/*/run.json")
        printed = lamella("explain-nan", str(path.parent)).out
        assert "going on after epoch 0, batch 2 of the next one\n" in printed
        assert "training, at step 3 (epoch 1, batch 3)" in printed

    def test_harmless_infinities_are_passed_over(self, lamella: Lamella) -> None:
        found = explained(lamella, "network=masked")
        assert found["where"] == "training, at step 3 (epoch 1, batch 3)"
        assert found["first"].startswith("the output of network.layers.2.late (Late): ")

    def test_what_a_module_computes_between_its_layers(self, lamella: Lamella) -> None:
        found = explained(lamella, "network=inner")
        assert found["first"].startswith("the input of network.second (Linear): ")

    def test_the_samples(self, lamella: Lamella) -> None:
        data = ("data=dataset", "data.train={_target_: mine.spoiled}", "data.num_classes=10", "network=linear")
        found = explained(lamella, *data, "data.batch_size=400")
        assert found["first"].startswith("the inputs of the batch: 1 infinite of ")
        assert re.fullmatch(r"at the positions \d+ of the batch", found["samples"])
        assert found["try"].startswith("look at these samples")

    def test_a_validation(self, lamella: Lamella) -> None:
        found = explained(lamella, "network=tested")
        assert found["where"] == "validation, after step 4 (epoch 1, batch 1)"
        assert found["first"].startswith("the output of network.layers.2 (Tested): ")

    def test_a_test(self, lamella: Lamella) -> None:
        options = ("network=tested", "data.val_size=0", "monitor=train/loss", "trainer.max_epochs=1")
        assert explained(lamella, *options)["where"].startswith("test, after step 4 (epoch ")

    def test_a_module_of_the_project(self, lamella: Lamella) -> None:
        found = explained(
            lamella, "task._target_=own.Own", "monitor=train/loss", "data.val_size=0", "trainer.test=false"
        )
        assert found["where"] == "training, at step 2 (epoch 1, batch 2)"
        assert found["first"].startswith("the output of net.2 (Late): ")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.usefixtures("mine")
def test_on_a_gpu(lamella: Lamella) -> None:
    """The run itself looks at its losses at the end of the epoch alone."""
    found = explained(lamella, "network=late", "device=cuda", "device.deterministic=true")
    assert found["where"] == "training, at step 6 (epoch 2, batch 2)"
    assert found["first"].startswith("the output of network.layers.1.Residual.1 (Late): ")


def test_a_run_without_such_a_number(lamella: Lamella, run: Path) -> None:
    result = lamella("explain-nan", str(run))
    assert (result.status, result.err) == (0, "")
    assert result.out == f"{run}: no NaN: the losses and gradients of 2 epochs and the last weights are finite\n"


def test_numbers_that_are_finite_this_time(lamella: Lamella, run: Path) -> None:
    fields = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**fields, "status": "failed", "error": "NonFiniteLoss: the loss is nan"}))
    result = lamella("explain-nan", str(run))
    assert result.status == 1
    assert result.out.endswith(
        "all numbers were finite this time, up to epoch 3: the bits differ from those of the run (another processor, "
        "GPU or version of torch may round otherwise)\n"
    )


def test_runs_that_cannot_be_explained(lamella: Lamella, run: Path) -> None:
    assert lamella("explain-nan", "nowhere").status == 2
    writer = RunWriter.reopen(run)
    with writer.log():
        writer.update(status="running")
        result = lamella("explain-nan", str(run))
    assert (result.status, result.err) == (2, f"error: {run}: the run is still in training; wait for its end\n")
    writer.close(status="failed", error="NonFiniteLoss: the loss is nan")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["trainer"] |= {"devices": 2, "strategy": "ddp"}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    result = lamella("explain-nan", str(run))
    assert result.status == 2
    assert (
        f"error: {run}: trainer.devices is 2, and one process cannot repeat what several have computed;" in result.err
    )


def test_a_run_whose_checkpoints_are_gone_is_trained_from_its_start(lamella: Lamella, mine: None) -> None:
    assert lamella("train", *SMALL, "network=late").status == 1
    [path] = Path().glob("outputs/*/*/checkpoints")
    shutil.rmtree(path)
    result = lamella("explain-nan", str(path.parent))
    assert "training, at step 6 (epoch 2, batch 2)" in result.out


def test_a_buffer_is_no_weight(lamella: Lamella) -> None:
    """A rate this large makes the running statistics infinite before the loss is."""
    assert (
        lamella("train", "name=grown", "optimizer=sgd", "optimizer.lr=1e12", "visuals=none", "device=cpu").status == 1
    )
    [run] = Path("outputs/grown").iterdir()
    result = lamella("explain-nan", str(run))
    assert "the buffer running_var in network." in result.out, result.out + result.err
    assert "the forward pass gave such a buffer, from weights that have grown" in result.out
