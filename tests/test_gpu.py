"""What runs on a GPU alone: CUDA graphs, data and optimizers on the device, exact resumes, fused sweeps."""

import json
import signal
from pathlib import Path

import kill
import pytest
import torch
from conftest import Lamella, Project
from test_resume import SMALL, resume, run_in, trained

import lamella as package
from lamella.data import digits
from lamella.data.augmentation import Augmentation
from lamella.data.loader import Batches
from lamella.data.normalize import Normalize
from lamella.data.transforms import Crop, Erase, Flip
from lamella.training.cuda_graphs import _Passes

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

SHORT = ("device=cuda", "trainer.max_epochs=2", "data.batch_size=32")
GRAPHS = {
    "plain": ("network=mlp", "network.dropout=0"),
    "dropout": ("network=mlp", "network.dropout=0.2", "scheduler=one_cycle", "trainer.gradient_clip_val=0.1"),
    "cnn": ("network=cnn", "network.widths=[4,8]", "loss.label_smoothing=0.1"),
    "residual": ("network=resnet", "data.augment=[{crop: 2},{rotate: 10},{erase: 5}]"),
    "whitened": (
        *("network=whitened_cnn", "network.widths=[4,8,8]"),
        "data.augment=[{crop: {padding: 2, reflect: true}},{flip: {alternate: true}}]",
    ),
    "bf16": ("network=cnn", "network.widths=[4,8]", "device.precision=bf16-mixed"),
    "channels_last": ("network=resnet", "device.channels_last=true", "device.precision=bf16-mixed"),
    "frozen": ("network=mlp", "network.freeze=[1.0.*]", "optimizer=sgd"),
    "thaw": ("network=cnn", "network.widths=[4,8]", "network.freeze={features.*: 1}", "optimizer=sgd"),
    "accumulate": ("network=mlp", "trainer.accumulate_grad_batches=2"),
    "mse": ("network=mlp", "loss=mse"),
    "compiled": ("network=mlp", "network.dropout=0.2", "device.compile=reduce-overhead"),
    "compiled_bf16": ("network=cnn", "network.widths=[4,8]", "device.compile=true", "device.precision=bf16-mixed"),
    "averaged": ("network=mlp", "trainer.ema=0.9", "scheduler=cosine", "optimizer=adamw"),
    "metrics": ("network=mlp", "metrics=[f1,auroc]", "data.sampler=balanced"),
    "masks": ("data=shapes", "data.source.count=300", "network=unet"),
    "recurrent": ("experiment=text_classes", "network=text_gru"),
    "text": ("experiment=char_gpt", "data.size=20000", "data.length=32", "network.width=16", "network.dropout=0.1"),
}


def trained_on_gpu(lamella: Lamella, name: str, *options: str) -> Path:
    """A run that is finished, with a name of its own."""
    result = lamella("train", *options, f"name={name}")
    assert result.status == 0, result.err
    assert "without" not in result.out, result.out
    [path] = Path("outputs", name).iterdir()
    return path


def test_the_use_of_the_gpu_is_measured(lamella: Lamella) -> None:
    run = trained_on_gpu(lamella, "run", "network=cnn", *SHORT)
    usage = json.loads((run / "run.json").read_text())["usage"]
    assert 0 <= usage["gpu_percent"]["mean"] <= usage["gpu_percent"]["peak"] <= 100
    assert usage["gpu_memory_gb"]["peak"] > 0.1
    assert usage["gpu_watts"]["mean"] > 1


def metrics(path: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((path / "run.json").read_text())["metrics"]
    return found


@pytest.mark.parametrize("name", GRAPHS)
def test_with_cuda_graphs_as_without(lamella: Lamella, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    original = _Passes.set_gradients

    def counted(passes: _Passes) -> None:
        given.append(1)
        original(passes)

    monkeypatch.setattr(_Passes, "set_gradients", counted)
    options = (*GRAPHS[name], *SHORT, "trainer.chunk=7")
    found = [
        metrics(trained_on_gpu(lamella, f"graph-{graph}", *options, f"device.graph={graph}"))
        for graph in ("auto", "false")
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-2)
    assert bool(given) == (name != "accumulate")


def test_what_a_cuda_graph_would_leave_out_is_run_without(lamella: Lamella, project: Project) -> None:
    project(mine="import torch\n\nclass Mine(torch.nn.Flatten): pass\n")
    layers = "network.layers=[{_target_: mine.Mine}, {Linear: 10}]"
    result = lamella("train", "network=linear", layers, "device=cuda", "trainer.max_epochs=1")
    assert result.status == 0, result.err
    assert "without a CUDA graph: Mine may do something else in each pass" in result.out


def test_a_network_that_cannot_be_captured_is_run_without(lamella: Lamella) -> None:
    # Without a momentum, BatchNorm reads a number from the device in each pass.
    layers = "network.layers=[Flatten,{Linear:32},{BatchNorm1d:{momentum:null}},ReLU,{Dropout:0.2},{Linear:10}]"
    result = lamella("train", "network=linear", layers, *SHORT)
    assert result.status == 0, result.err
    assert result.out.count("without a CUDA graph: ") == 1
    [path] = Path("outputs/default").iterdir()
    assert metrics(path)["test/accuracy"] > 0.8


@pytest.mark.parametrize("moment", [20, 50, 80])
def test_a_deterministic_run_is_resumed_exactly(tmp_path: Path, moment: int) -> None:
    options = (
        *("device=cuda", "device.deterministic=true", "network=cnn", "network.widths=[4,8]", *SMALL[2:]),
        *("trainer.max_epochs=2", "trainer.checkpoint_every=2steps"),
    )
    reference = trained(tmp_path / "reference", *options)
    assert kill.lamella(tmp_path / "killed", "train", *options, moment=moment) == -signal.SIGKILL
    resume(tmp_path / "killed")
    assert kill.differences(reference, run_in(tmp_path / "killed")) == []


def test_a_deterministic_run_has_the_same_bits_in_chunks(lamella: Lamella) -> None:
    options = ("network=cnn", "network.widths=[4,8]", *SHORT, "device.deterministic=true")
    runs = [trained_on_gpu(lamella, f"chunks-{size}", *options, f"trainer.chunk={size}") for size in (1, 7)]
    assert kill.differences(*runs) == []


def test_a_run_that_is_not_deterministic_is_resumed(tmp_path: Path) -> None:
    options = ("device=cuda", "trainer.max_epochs=2", "trainer.checkpoint_every=2steps", "trainer.ema=0.9")
    assert kill.lamella(tmp_path / "killed", "train", *options, moment=80) == -signal.SIGKILL
    resume(tmp_path / "killed")
    assert metrics(run_in(tmp_path / "killed"))["test/accuracy"] > 0.8


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "64-true"])
def test_other_precisions(lamella: Lamella, precision: str) -> None:
    run = trained_on_gpu(lamella, "run", "network=cnn", *SHORT, f"device.precision={precision}")
    assert metrics(run)["test/accuracy"] > 0.8


def test_the_samples_are_on_the_gpu() -> None:
    samples = digits().train
    normalize = Normalize.of(0.13, 0.3, (1, 28, 28))
    augment = Augmentation([Crop(2), Flip(), Erase(5)], 10)
    on_cpu, on_gpu = (
        Batches(samples, 64, normalize=normalize, augment=augment, shuffle=True, device=device)
        for device in ("cpu", "cuda")
    )
    assert isinstance(on_gpu.inputs, torch.Tensor)
    assert on_gpu.inputs.device.type == on_gpu.targets.device.type == "cuda"
    for (inputs, targets), (same, right) in zip(on_cpu, on_gpu, strict=True):
        assert isinstance(inputs, torch.Tensor)
        assert isinstance(same, torch.Tensor)
        assert torch.equal(targets, right.cpu())
        assert torch.allclose(inputs, same.cpu(), atol=1e-6)


def test_a_sweep_as_one_program(lamella: Lamella) -> None:
    options = ("optimizer.lr=1e-3,2e-3", "seed=0,1", "network=cnn", "network.widths=[4,8]", *SHORT)
    found = {}
    for launcher in ("fused", "local"):
        given = (f"hydra/launcher={launcher}", "hydra.launcher.slots=1", f"sweep.name={launcher}")
        result = lamella("train", "-m", *options, *given)
        assert result.status == 0, result.err
        paths = sorted(Path("outputs/default", launcher).glob("*/run.json"))
        found[launcher] = [json.loads(path.read_text())["metrics"]["train/loss"] for path in paths]
        assert len(paths) == 4
    assert found["fused"] == pytest.approx(found["local"], rel=0.05)


def test_jobs_share_a_gpu(lamella: Lamella) -> None:
    result = lamella("train", "-m", "seed=0,1,2,3", *SHORT, "hydra.launcher.slots=4", "sweep.name=s")
    assert result.status == 0, result.err
    assert len(list(Path("outputs/default/s").glob("*/run.json"))) == 4


def test_a_run_of_the_gpu_is_used_without_one(lamella: Lamella) -> None:
    run = trained_on_gpu(lamella, "run", "network=cnn", *SHORT)
    result = lamella("eval", str(run), "device=cpu")
    assert result.status == 0, result.err
    images = digits().train.inputs
    assert isinstance(images, torch.Tensor)
    predicted, same = (package.load(run, device=device).predict(images).cpu() for device in ("cpu", "cuda"))
    assert torch.allclose(predicted, same, atol=1e-3)
    assert lamella("inspect", str(run)).status == 0


def test_a_run_is_reproduced(lamella: Lamella) -> None:
    run = trained_on_gpu(lamella, "run", "network=cnn", *SHORT, "device.deterministic=true")
    result = lamella("reproduce", str(run))
    assert result.status == 0, result.out + result.err
