"""`lamella export`: the network in other runtimes."""

import json
import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest
import safetensors
import torch
from conftest import Lamella, Project, contents
from torch import Tensor

import lamella as package

FORMATS = ("onnx", "pt2", "safetensors")
OWN = """
import torch
from torch import nn

class Noisy(nn.Linear):
    def forward(self, x):
        return super().forward(x) + torch.rand_like(x[:, :1])

class Branching(nn.Linear):
    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_it_gives_the_same(lamella: Lamella, run: Path, form: str, digit_images: tuple[Tensor, Tensor]) -> None:
    result = lamella("export", str(run), "--format", form)
    assert result.status == 0, result.err
    assert "largest difference to the original, for 359 test samples: " in result.out
    file, model = run / f"network.{form}", package.load(run)
    inputs = model.preprocess(digit_images[0][:7])
    with torch.no_grad():
        expected = model.network(inputs)
    if form == "onnx":
        onnx.checker.check_model(onnx.load(file))
        session = onnxruntime.InferenceSession(file)
        found = torch.from_numpy(session.run(None, {"input": inputs.numpy()})[0])
        metadata = session.get_modelmeta().custom_metadata_map
    elif form == "pt2":
        metadata = dict.fromkeys(("shape", "classes", "mean", "std", "input", "output"), "")
        with torch.no_grad():
            found = torch.export.load(file, extra_files=metadata).module()(inputs)
    else:
        with safetensors.safe_open(file, "pt") as opened:
            metadata = opened.metadata()
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        for name, value in model.network.state_dict().items():
            assert torch.equal(weights[name], value)
        found = expected
    assert torch.allclose(found, expected, atol=1e-4)
    assert {name: json.loads(metadata[name]) for name in ("shape", "classes", "mean", "std")} == {
        "shape": [1, 28, 28],
        "classes": list("0123456789"),
        "mean": [0.3057],
        "std": [0.3248],
    }
    assert json.loads(metadata["input"]).endswith("(pixel / 255 - mean) / std of each channel")
    assert json.loads(metadata["output"]).endswith("logits, of which softmax makes probabilities")
    assert not list(run.glob("tmp*"))


@pytest.mark.slow
@pytest.mark.parametrize("network", ["cnn", "resnet", "neural_network"])
@pytest.mark.parametrize("form", FORMATS)
def test_every_network(lamella: Lamella, network: str, form: str) -> None:
    assert lamella("train", f"network={network}", "trainer=debug").status == 0
    [run] = Path("outputs/default").iterdir()
    result = lamella("export", str(run), "--format", form, "--out", f"other.{form}")
    assert result.status == 0, result.err
    assert Path(f"other.{form}").stat().st_size > 10_000


@pytest.fixture
def own(lamella: Lamella, project: Project, request: pytest.FixtureRequest) -> Path:
    """A run of a network of the project's own."""
    layers = f"layers:\n  - Flatten\n  - {{_target_: mine.{request.param}, in_features: 784, out_features: 10}}\n"
    project(mine=OWN, conf={"network/own.yaml": layers})
    assert lamella("train", "network=own", "trainer=debug").status == 0
    return next(Path("outputs/default").iterdir())


@pytest.mark.parametrize("own", ["Noisy"], indirect=True)
def test_a_file_that_gives_other_values_is_refused(lamella: Lamella, own: Path) -> None:
    before = contents(Path())
    result = lamella("export", str(own), "--format", "pt2")
    assert result.status == 1
    assert result.err.startswith("error: pt2: the outputs of the file differ by up to ")
    assert "for 359 test samples, and at most 1e-04 is allowed; nothing is written" in result.err
    assert contents(Path()) == before


@pytest.mark.slow
@pytest.mark.parametrize("own", ["Branching"], indirect=True)
def test_a_network_that_cannot_be_exported(lamella: Lamella, own: Path) -> None:
    before = contents(Path())
    result = lamella("export", str(own), "--format", "onnx")
    assert result.status == 1
    assert result.err.startswith("error: this network cannot be exported as onnx: ")
    assert contents(Path()) == before


def test_what_is_not_installed_is_named(lamella: Lamella, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    result = lamella("export", str(run), "--format", "safetensors")
    assert result.status == 2
    assert "--format safetensors needs safetensors.torch; uv pip install -e '.[export]'" in result.err


def test_wrong_requests(lamella: Lamella, run: Path) -> None:
    result = lamella("export", str(run), "--format", "onnx", "--out", "none/x.onnx")
    assert result.status == 2
    assert result.err == "error: --out none/x.onnx: there is no directory none\n"
    for out, problem in (("x.pt", "the name must end in .onnx"), ("outputs", "this is a directory")):
        result = lamella("export", str(run), "--format", "onnx", "--out", out)
        assert (result.status, result.err) == (2, f"error: --out {out}: {problem}\n")
    assert lamella("export", str(run)).status == 2
    assert lamella("export", str(run), "--format", "pickle").status == 2
