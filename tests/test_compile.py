"""Training steps compiled by torch.compile: the same training, exact resumes, and the network itself where need be."""

import json
from pathlib import Path
from typing import Any

import kill
import pytest
from conftest import Lamella, Project
from programs import RealProgram
from test_resume import resume, run_in, trained

from lamella.training.device import MODES

# Three batches an epoch, of which the last one is smaller and is not compiled.
SMALL = ("device=cpu", "device.threads=1", "data.batch_size=512", "trainer.max_epochs=2", "visuals=none")
NETWORK = ("network.depth=1", "network.width=16", "network.dropout=0.2")


def train(lamella: Lamella, name: str, *options: str) -> tuple[str, Path]:
    """Train in this process, and return what was printed and the run."""
    result = lamella("train", *SMALL, f"name={name}", *options)
    assert result.status == 0, result.err
    [path] = Path("outputs", name).iterdir()
    return result.out, path


def record(run: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((run / "run.json").read_text())
    return fields


@pytest.mark.slow(20)
def test_compiled_steps_train_as_the_network_itself(lamella: Lamella) -> None:
    _, eager = train(lamella, "eager", *NETWORK)
    out, run = train(lamella, "compiled", *NETWORK, "device.compile=true", "trainer.chunk=1")
    assert out.count("compiled in ") == 1
    compiled = record(run)["compiled"]
    assert compiled["failure"] == ""
    assert 0 < compiled["seconds"] < record(run)["seconds"]
    assert record(run)["metrics"]["train/loss"] == pytest.approx(record(eager)["metrics"]["train/loss"], rel=1e-3)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["samples_per_second"] * compiled["seconds"] > 1294  # without the time of compiling
    # In chunks, gradients are set without autograd, and have the same bits.
    _, chunks = train(lamella, "chunks", *NETWORK, "device.compile=true", "trainer.chunk=3")
    assert kill.differences(run, chunks) == []
    result = lamella("eval", str(run))
    assert result.status == 0, result.err
    assert f"loss {record(run)['metrics']['test/loss']:.4f}" in result.out


@pytest.mark.slow(20)
def test_a_compiled_run_is_resumed_exactly(tmp_path: Path) -> None:
    """What is compiled changes after the first epoch, when parameters are thawed."""
    options = (*SMALL, *NETWORK, "device.compile=true", "trainer.checkpoint_every=1steps", "network.freeze={1.0.*: 1}")
    reference, states = tmp_path / "reference", tmp_path / "states"
    states.mkdir()
    assert kill.lamella(reference, "train", *options, moment=0, states=states) == 0
    begun = sorted((state for state in states.iterdir() if kill.run_of(state)), key=lambda state: int(state.name))
    state = begun[len(begun) // 3]
    assert "compiled in" in resume(state)
    assert kill.differences(run_in(reference), run_in(state)) == []


LAYERS = (
    "import torch\n\n\n"
    "class Branch(torch.nn.Module):\n    def forward(self, x):\n        return x if x.sum() > 0 else -x\n\n\n"
    "class Other(torch.nn.Module):\n    def forward(self, x):\n"
    "        return 2 * x if torch.compiler.is_compiling() else x\n\n\n"
    "class Counting(torch.nn.Module):\n    calls = 0\n    def forward(self, x):\n"
    "        self.calls += 1\n        return x * (1 + 0 * self.calls)\n\n\n"
)


@pytest.mark.slow(15)
def test_what_cannot_be_compiled_is_trained_without(lamella: Lamella, project: Project) -> None:
    project(mine=LAYERS)
    reasons = {
        "Branch": "Data-dependent branching",
        "Other": "compiled code gives something else than the network",
        "Counting": "the network or the loss has attributes that change in each step",
    }
    for name, reason in reasons.items():
        options = ("network=linear", f"network.layers=[Flatten,{{_target_: mine.{name}}},{{Linear: 10}}]")
        out, run = train(lamella, f"{name}-compiled", *options, "device.compile=true")
        assert out.count(f"without compiled steps: {reason}\n") == 1
        assert record(run)["compiled"]["failure"] == reason
        _, eager = train(lamella, f"{name}-eager", *options)
        assert record(run)["metrics"] == record(eager)["metrics"]


@pytest.mark.slow(10)
def test_without_a_compiler_the_network_itself_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-compiler")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "empty"))
    process = RealProgram(tmp_path, "train", *SMALL, *NETWORK, "device.compile=true")
    assert process.wait(300) == 0, process.err
    assert "without compiled steps: InvalidCxxCompiler: No working C++ compiler found" in process.out
    assert process.err == ""
    run = run_in(tmp_path)
    assert record(run)["environment"]["compiler"] == "none"


@pytest.mark.slow(20)
def test_two_processes_compile_and_exchange_gradients(lamella: Lamella, tmp_path: Path) -> None:
    options = ("network=linear", "optimizer=sgd")
    _, alone = train(lamella, "alone", *options)
    run = trained(tmp_path / "ddp", *SMALL, *options, "trainer=ddp", "trainer.devices=2", "device.compile=true")
    assert record(run)["compiled"]["failure"] == ""
    assert record(run)["metrics"]["train/loss"] == pytest.approx(record(alone)["metrics"]["train/loss"], rel=1e-3)


def test_a_step_of_the_project_is_not_compiled(lamella: Lamella, project: Project) -> None:
    project(
        conf={"task/mine.yaml": "_target_: mine.Mine\n"},
        mine="import lamella\n\n\nclass Mine(lamella.Task):\n    pass\n",
    )
    result = lamella("train", "task=mine", "device.compile=true")
    result.check_refusal("device.compile compiles the step of lamella.Task, and mine.Mine may have its own")


def test_the_modes_are_those_of_torch() -> None:
    from torch import _inductor

    assert set(MODES) <= {*_inductor.list_mode_options()}
