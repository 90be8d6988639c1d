"""What Lamella changes in its process: building an experiment nothing, and each command the number of threads."""

import os
import pickle
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import Lamella, Project
from torch import Tensor

from lamella.experiment.build import build_experiment
from lamella.runs.checkpoints import read_weights

# A data source and a network that write down with how many threads they are called.
OWN = """
import os
from pathlib import Path

import torch
from torch import nn

from lamella.data import Splits, digits

def note(place):
    Path("threads").mkdir(exist_ok=True)
    with Path("threads", str(os.getpid())).open("a") as file:
        print(place, torch.get_num_threads(), file=file)

def small_digits() -> Splits:
    note("data")
    return digits(8)

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 128), nn.Linear(128, 128), nn.Linear(128, 10))
        note("weights")
        nn.init.orthogonal_(self[2].weight)  # the bits depend on the number of threads

    def forward(self, x):
        note("batch")
        return super().forward(x)
"""
GIVEN = ("network=own", "data=own", "visuals=none", "device=cpu", "trainer.max_epochs=1", "device.threads=2")
RUN = "outputs/default/run"
COMMANDS = {
    "train": ("train", *GIVEN),
    "inspect": ("inspect", *GIVEN, "--gradients"),
    "find": ("find", "lr", *GIVEN),
    "a fused sweep": ("train", "-m", *GIVEN, "seed=0,1", "hydra/launcher=fused", "hydra.launcher.slots=1"),
    "eval": ("eval", RUN),
    "inspect a run": ("inspect", RUN, "--gradients"),
    "export": ("export", RUN, "--format", "safetensors"),
    "resume": ("resume", RUN, "trainer.max_epochs=2"),
    "reproduce": ("reproduce", RUN),
}


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Put the number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def own(lamella: Lamella, project: Project) -> None:
    """Write a project with a data source and a network of its own into the working directory."""
    project(mine=OWN)
    groups = {
        "network": {"_target_": "mine.Net"},
        "data": {"defaults": ["digits", "_self_"], "source": {"_target_": "mine.small_digits"}, "shape": [1, 8, 8]},
    }
    for group, node in groups.items():
        Path("conf", group).mkdir(parents=True)
        Path("conf", group, "own.yaml").write_text(yaml.safe_dump(node, sort_keys=False))


def process_state() -> dict[str, object]:
    """Return what an experiment could change in the process: variables, threads, and the states of random numbers."""
    return {
        "environ": dict(os.environ),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "torch": torch.get_rng_state().tolist(),
        "random": random.getstate(),
        "numpy": pickle.dumps(np.random.get_state()),
    }


@pytest.mark.parametrize(
    "overrides",
    [
        GIVEN,
        ("network=cnn", "data.augment=[{crop: 2}]", "device.threads=2", "device.deterministic=true", "seed=7"),
        ("trainer=ddp", "device=cpu", "device.threads=2", "data.num_workers=2"),
    ],
    ids=["own", "cnn", "ddp"],
)
@pytest.mark.usefixtures("own")
def test_building_an_experiment_changes_nothing_else(
    lamella: Lamella, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
) -> None:
    config = yaml.safe_load(lamella("train", "--cfg", "job", "--resolve", *overrides).out)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)  # an earlier command may have set it
    torch.set_num_threads(1)
    _ = torch.rand(1), random.random(), np.random.rand()  # so that seeding again would be seen
    before = process_state()
    experiment = build_experiment(config)
    assert process_state() == before
    assert experiment.task.network is not None
    assert process_state() == before


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.usefixtures("own")
def test_data_weights_and_batches_have_the_threads_of_the_run(lamella: Lamella, command: str) -> None:
    if RUN in COMMANDS[command]:
        assert lamella("train", *GIVEN).status == 0
        next(Path("outputs/default").iterdir()).rename(RUN)
        shutil.rmtree("threads")
    torch.set_num_threads(1)
    result = lamella(*COMMANDS[command])
    assert result.status == 0, result.out + result.err
    assert "run alone" not in result.out
    notes = {path.name: set(path.read_text().splitlines()) for path in Path("threads").iterdir()}
    if "-m" in COMMANDS[command]:
        del notes[str(os.getpid())]  # the process of a sweep checks the jobs, and another one trains them
    assert list(notes.values()) == [{"data 2", "weights 2", "batch 2"}]


@pytest.mark.slow
@pytest.mark.usefixtures("own")
def test_weights_do_not_depend_on_the_threads_of_the_process_before(lamella: Lamella) -> None:
    found: list[dict[str, Tensor]] = []
    for count in (1, 3):
        torch.set_num_threads(count)
        assert lamella("train", *GIVEN, f"name=from_{count}").status == 0
        [path] = Path(f"outputs/from_{count}").iterdir()
        found.append(dict(read_weights(path / "checkpoints" / "last.ckpt")))
    one, other = found
    assert all(torch.equal(one[name], other[name]) for name in one | other)
