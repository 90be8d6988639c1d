"""Whitening2d: its filters are computed from the training images, before a run begins, and stay as they are."""

import json
from pathlib import Path

import fast
import pytest
import torch
from conftest import Lamella, Project
from killed import kill_and_resume
from torch import nn
from torch.nn.functional import unfold

from lamella.config.compose import compose_one
from lamella.data import Data
from lamella.data.cifar import LAYOUTS, PIXELS
from lamella.experiment.build import prepare_experiment
from lamella.experiment.first_weights import fit_filters
from lamella.network import Whitening2d, freeze_parameters, plan
from lamella.network.whitening import fit_whitening
from lamella.runs.checkpoints import read_checkpoint

FAST = ("experiment=cifar10_fast", "network.widths=[4,8,8]", "device=cpu", "device.threads=1", "visuals=none")
SMALL = ("data.batch_size=16", "optimizer.lr=0.02", "trainer.max_epochs=2")


def pictures(root: Path) -> tuple[str, ...]:
    return (*FAST, *SMALL, "data=image_folder", f"data.root={root}", "data.shape=[3,32,32]")


def trained(lamella: Lamella, root: Path, override: str) -> dict[str, torch.Tensor]:
    """Train a run of its own name, and return the tensors of its last checkpoint."""
    result = lamella("train", *pictures(root), override, f"name={override.replace('=', '')}")
    assert result.status == 0, result.err
    [run] = Path(f"outputs/{override.replace('=', '')}").iterdir()
    state: dict[str, torch.Tensor] = read_checkpoint(run / "checkpoints/last.ckpt")["state_dict"]
    return state


def test_patches_are_uncorrelated_after_it() -> None:
    torch.manual_seed(0)
    images = torch.rand(40, 3, 9, 9).cumsum(2).cumsum(3) / 9  # neighbours are alike
    network = plan([{"Scale": 2.0}, {"Whitening2d": {"kernel_size": 3, "eps": 0.0}}, "Flatten"], (3, 9, 9)).build()
    state = torch.get_rng_state()
    fit_whitening(network, images)
    assert torch.equal(torch.get_rng_state(), state)
    layer = network.get_submodule("1")
    assert isinstance(layer, Whitening2d)
    freeze_parameters(network, {"1.*": 1}, epoch=2)
    assert [name for name, value in network.named_parameters() if value.requires_grad] == ["1.bias"]
    layer.get_parameter("bias").data.zero_()
    outputs = layer(2 * images)
    assert outputs.shape == (40, 54, 7, 7)
    assert torch.equal(layer.weight[27:], -layer.weight[:27])
    whitened = outputs[:, :27].transpose(0, 1).flatten(1)
    assert torch.allclose(whitened @ whitened.T / whitened.shape[1], torch.eye(27), atol=1e-2)
    patches = unfold(2 * images, 3).transpose(0, 1).flatten(1)
    variances = patches.square().mean(1).sum() / layer.weight[:27].flatten(1).norm(dim=1).pow(-2).sum()
    assert float(variances) == pytest.approx(1, rel=1e-3)


def test_further_filters_of_an_identity_are_drawn() -> None:
    planned = plan([{"Conv2d": [8, 3]}], (3, 6, 6), init={"*.weight": "identity"})
    torch.manual_seed(0)
    weight = planned.build().get_parameter("0.weight")
    torch.manual_seed(0)
    drawn = nn.Conv2d(3, 8, 3).weight
    assert torch.equal(weight[3:], drawn[3:])
    assert torch.equal(weight[:3], nn.init.dirac_(torch.empty(3, 3, 3, 3)))


@pytest.mark.slow(4)
def test_a_run_keeps_the_filters_of_its_training_images(lamella: Lamella, image_root: Path) -> None:
    runs = (trained(lamella, image_root, f"seed={seed}") for seed in (0, 1))
    filters = [state["network.stem.0.weight"] for state in runs]
    experiment = prepare_experiment(compose_one([*pictures(image_root)]).config)
    assert isinstance(experiment.data, Data)
    drawn = experiment.task.network.get_buffer("stem.0.weight").clone()
    fit_filters(experiment)
    expected = experiment.task.network.get_buffer("stem.0.weight")
    assert torch.equal(filters[0], filters[1])
    assert torch.equal(filters[0], expected)
    assert not torch.allclose(filters[0], drawn)


@pytest.mark.slow(8)
def test_the_recipe_is_exact(tmp_path: Path, image_root: Path) -> None:
    options = (*pictures(image_root), "trainer.max_epochs=3", "trainer.checkpoint_every=2steps")
    for directory in ("whole", "killed"):
        (tmp_path / directory).mkdir()
    kill_and_resume(tmp_path / "whole", tmp_path / "killed", *options, shares=(0.4, 0.5))


@pytest.mark.slow(12)
def test_the_benchmark_trains_it_on_the_binary_version(tmp_path: Path) -> None:
    folder = tmp_path / "data" / LAYOUTS["CIFAR10"][0]
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    for name in (*LAYOUTS["CIFAR10"][1], *LAYOUTS["CIFAR10"][2]):
        rows = torch.randint(256, (12, 1 + PIXELS), dtype=torch.uint8)
        rows[:, 0] %= 10
        (folder / name).write_bytes(rows.numpy().tobytes())
    overrides = [*fast.data_overrides(tmp_path / "data"), *FAST[1:], *SMALL]
    found = fast.train(tmp_path, "cifar10_fast", "run", overrides, 300)
    assert 0 <= found["with views"] <= 1
    assert 0 < found["training, s"] < found["command, s"]
    record = json.loads(next(tmp_path.glob("outputs/run/*/run.json")).read_text())
    assert (record["status"], record["steps"]) == ("finished", 8)
    assert fast.row("run", [found, found]).startswith("| `run`, n = 2 | ")


@pytest.mark.slow(4)
def test_chunks_have_the_same_bits(lamella: Lamella, image_root: Path) -> None:
    states = [trained(lamella, image_root, f"trainer.chunk={chunk}") for chunk in (1, 3)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_what_has_no_images_is_refused(lamella: Lamella, project: Project) -> None:
    layers = "network.layers=[{Whitening2d: 2}, Flatten, {Linear: 10}]"
    wine = lamella("train", "data=wine", "network=linear", layers)
    wine.check_refusal("network.layers.0: Whitening2d expects (channels, height, width), what comes in is (13,)")
    project(
        own="""
import torch
from torch.utils.data import TensorDataset

def samples():
    return TensorDataset(torch.rand(40, 3, 8, 8), torch.arange(40) % 10)
"""
    )
    data = ("data=dataset", "data.train={_target_: own.samples}", "data.num_classes=10")
    own = lamella("train", *data, "network=linear", layers)
    own.check_refusal("network: Whitening2d is computed from images in memory or in files")
