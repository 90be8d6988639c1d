"""What a run draws, read back from TensorBoard's events."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Lamella, Project
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from torch import nn

from lamella.data import Data
from lamella.experiment.build import build_experiment
from lamella.visuals import classes
from lamella.visuals.pictures import confusion_picture, drawable_names, image_grid, weight_picture

DEFAULT = ("samples", "mistakes", "confusion", "weights")


def events(path: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(path), size_guidance={"images": 0, "tensors": 0, "histograms": 0, "scalars": 0})
    return accumulator.Reload()


def trained(lamella: Lamella, *overrides: str) -> tuple[Path, EventAccumulator]:
    result = lamella("train", "trainer.max_epochs=2", *overrides)
    assert result.status == 0, result.err
    path = max((path.parent for path in Path("outputs").rglob("run.json")), key=lambda path: path.stat().st_mtime)
    return path, events(path)


def picture(found: EventAccumulator, tag: str, number: int = -1) -> Any:
    return np.asarray(Image.open(io.BytesIO(found.Images(tag)[number].encoded_image_string)))


def hparams(found: EventAccumulator) -> dict[str, Any]:
    """The values that HPARAMS shows for a run."""
    plugin = found.summary_metadata
    session = plugin_data_pb2.HParamsPluginData.FromString(
        plugin["_hparams_/session_start_info"].plugin_data.content
    ).session_start_info
    assert "_hparams_/session_end_info" in plugin
    assert "_hparams_/experiment" not in plugin  # it would decide which columns are shown of all runs
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in session.hparams.items()}


@pytest.mark.slow
def test_default_draws_once_an_epoch(lamella: Lamella) -> None:
    _, found = trained(lamella)
    tags = found.Tags()
    assert set(tags["images"]) == set(DEFAULT)
    for tag in DEFAULT:
        assert [event.step for event in found.Images(tag)] == [1, 2]
    assert tags["graph"]
    assert tags["histograms"] == []
    assert {"structure/text_summary", "config/text_summary"} <= set(tags["tensors"])
    # TensorBoard sorts by name: what everybody looks at comes first, but for the use of the machine in a longer run.
    shown = sorted(tag for tag in tags["scalars"] if not tag.startswith("machine/"))
    assert shown[:4] == ["train/accuracy", "train/loss", "val/accuracy", "val/loss"]
    others = ("lr", "grad_norm", "samples_per_second", "seconds")
    assert {f"while_training/{name}" for name in others} <= set(shown)


@pytest.mark.slow
def test_full_adds_histograms_and_curves(lamella: Lamella) -> None:
    _, found = trained(lamella, "visuals=full", "network=neural_network")
    tags = found.Tags()
    for group in ("weights", "gradients"):
        assert f"{group}/linear_relu_stack.0.weight" in tags["histograms"]
    assert "activations/linear_relu_stack.5" in tags["histograms"]
    assert {f"precision_recall/{number}" for number in range(10)} <= set(tags["tensors"])
    histogram = found.Histograms("weights/linear_relu_stack.4.bias")[-1].histogram_value
    assert histogram.num == sum(histogram.bucket) == 10


def test_none_draws_nothing(lamella: Lamella) -> None:
    _, found = trained(lamella, "visuals=none")
    tags = found.Tags()
    assert tags["images"] == tags["histograms"] == []
    assert not tags["graph"]
    assert "train/loss" in tags["scalars"]


def test_one_picture_can_be_left_out(lamella: Lamella) -> None:
    _, found = trained(lamella, "~visuals.graph", "visuals.samples.count=4")
    assert not found.Tags()["graph"]
    assert set(found.Tags()["images"]) == set(DEFAULT)


def test_a_histogram_holds_the_values(lamella: Lamella) -> None:
    path, found = trained(lamella, "visuals=full", "network=linear")
    weight = torch.load(path / "checkpoints/last.ckpt", weights_only=True)["state_dict"]["network.1.weight"]
    value = found.Histograms("weights/1.weight")[-1].histogram_value
    assert (value.min, value.max, value.num) == pytest.approx((float(weight.min()), float(weight.max()), 7840))
    assert value.sum == pytest.approx(float(weight.sum()), rel=1e-4)
    expected = torch.histc(weight, len(value.bucket), float(weight.min()), float(weight.max()))
    assert value.bucket == expected.tolist()


@pytest.mark.slow
def test_drawing_does_not_change_what_is_trained(lamella: Lamella, project: Project) -> None:
    """Bit for bit, with a network that is random in evaluation too and keeps a layer out of training mode."""
    project(
        mine=(
            "import torch\nfrom torch import nn\n\n\nclass Net(nn.Sequential):\n    def __init__(self):\n"
            "        super().__init__(nn.Flatten(), nn.Linear(784, 16), nn.BatchNorm1d(16), nn.Linear(16, 10))\n"
            "        self[2].eval()\n\n    def forward(self, x):\n"
            "        return nn.functional.dropout(super().forward(x), 0.2, True)\n"
        ),
        conf={"network/mine.yaml": "_target_: mine.Net\n"},
    )
    states = []
    for visuals in ("none", "full"):
        path, _ = trained(lamella, "network=mine", f"visuals={visuals}")
        states.append(torch.load(path / "checkpoints/last.ckpt", weights_only=True)["state_dict"])
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.slow
def test_pictures_in_low_precision(lamella: Lamella) -> None:
    _, found = trained(lamella, "device.precision=bf16-true", "visuals=full", "network=linear")
    assert found.Tags()["graph"]
    assert "activations/1" in found.Tags()["histograms"]


def test_no_picture_of_nothing(lamella: Lamella) -> None:
    result = lamella("train", "visuals.samples.count=0")
    assert result.status == 2
    assert result.err.startswith("error: visuals.samples.count is 0; it takes 1 or more\n")


@pytest.mark.slow
def test_hparams_hold_what_was_set_and_the_best_metrics(lamella: Lamella) -> None:
    result = lamella("train", "-m", "optimizer.lr=1e-2,1e-3", "network=linear", "trainer.max_epochs=2")
    assert result.status == 0, result.err
    rates = set()
    for path in (path.parent for path in Path("outputs").rglob("run.json")):
        found, run = events(path), json.loads((path / "run.json").read_text())
        values = hparams(found)
        assert values["network"] == "linear"
        assert values["optimizer"] == "adam"
        assert (values["seed"], values["data.batch_size"], values["trainer.max_epochs"]) == (0, 64, 2)
        rates.add(values["optimizer.lr"])
        for name, value in run["metrics"].items():
            assert found.Scalars(f"when_best/{name}")[-1].value == pytest.approx(value)
    assert rates == {0.01, 0.001}


def test_the_confusion_matrix_counts_the_validation(lamella: Lamella, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[torch.Tensor] = []

    def draw(matrix: torch.Tensor, names: list[str]) -> object:
        drawn.append(matrix)
        return confusion_picture(matrix, names)

    monkeypatch.setattr(classes, "confusion_picture", draw)
    path, _ = trained(lamella, "network=linear")
    line = json.loads((path / "metrics.jsonl").read_text().splitlines()[-1])
    assert int(drawn[-1].sum()) == 144
    assert float(drawn[-1].trace() / drawn[-1].sum()) == pytest.approx(line["val/accuracy"])


@pytest.mark.slow
def test_samples_show_what_the_network_gets(lamella: Lamella) -> None:
    _, plain = trained(lamella, "network=linear")
    _, augmented = trained(lamella, "network=linear", "data.augment=[{rotate: 45},{mixup: 1.0}]")
    _, unscaled = trained(lamella, "network=linear", "data.std=[0.001]")
    assert picture(plain, "samples").shape == picture(augmented, "samples").shape
    assert not np.array_equal(picture(plain, "samples"), picture(augmented, "samples"))
    shades = [np.isin(picture(found, "samples")[20:], (0, 255)).mean() for found in (plain, unscaled)]
    assert shades[0] < 0.4 < 0.9 < shades[1]


@pytest.mark.slow
def test_data_that_are_no_images_draw_none(lamella: Lamella) -> None:
    _, found = trained(lamella, "experiment=autograd")
    assert found.Tags()["images"] == []
    assert found.Tags()["graph"]


@pytest.mark.slow
@pytest.mark.parametrize("network", ["cnn", "resnet"])
def test_pictures_of_convolutions(lamella: Lamella, network: str) -> None:
    _, found = trained(lamella, f"network={network}", "+trainer.limit_train_batches=2", "visuals=full")
    assert set(found.Tags()["images"]) == set(DEFAULT)


def test_weights_are_drawn_as_images_on_one_scale() -> None:
    layer = nn.Linear(4, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(12.0).view(3, 4))
    drawn = weight_picture(layer.weight, (1, 2, 2))
    assert drawn is not None
    shades = np.asarray(drawn)
    assert shades[-3, -3] == 255
    assert shades[20, 3] == 0
    assert weight_picture(layer.weight, (1, 3, 2)) is None


def test_names_that_the_font_lacks_are_written_in_other_letters() -> None:
    assert drawable_names(["café", "dog", "運動", "θ", "e", "é"]) == [
        "cafe",
        "dog",
        "class 2",
        "class 3",
        "e (4)",
        "e (5)",
    ]


@pytest.mark.parametrize("count", [1, 2, 10])
def test_a_confusion_matrix_is_not_scaled_by_tensorboard(count: int) -> None:
    drawn = confusion_picture(
        torch.eye(count, dtype=torch.int64), [f"class number {number}" for number in range(count)]
    )
    assert 160 < drawn.size[0] <= 400
    heading = np.asarray(drawn)[:12].min(axis=(0, 2))  # the darkest value in each column
    assert heading[-3:].min() == 255  # the heading ends before the picture does


def test_captions_stay_below_their_images() -> None:
    lines = ["golden retriever", "as labrador retriever", "with 0.98"]
    for size in (8, 28, 300):
        drawn = np.asarray(image_grid(torch.ones(5, 1, size, size), [lines] * 5))
        cell = drawn.shape[1] // 4
        for number in range(1, 4):
            assert drawn[:, number * cell - 2 : number * cell + 1].min() == 255


def test_many_classes_are_drawn_without_their_names() -> None:
    for count in (2, 10, 30, 31, 100, 1000):
        names = [f"class number {number}" for number in range(count)]
        drawn = confusion_picture(torch.eye(count, dtype=torch.int64), names)
        assert max(drawn.size) < 2500


def test_pixels_are_those_before_normalisation(lamella: Lamella) -> None:
    import yaml

    config = yaml.safe_load(lamella("train", "--cfg", "job", "--resolve").out)
    data = build_experiment(config).data
    assert isinstance(data, Data)
    inputs, _ = next(iter(data.val_dataloader()))
    assert isinstance(inputs, torch.Tensor)
    assert isinstance(data.val.inputs, torch.Tensor)
    torch.testing.assert_close(data.pixels(inputs) * 255, data.val.inputs[: len(inputs)].float())


def test_a_picture_of_ones_own_is_called_at_every_hook(lamella: Lamella, project: Project) -> None:
    project(
        mine=(
            "import pytorch_lightning as pl\n\n\nclass Hooks(pl.Callback):\n"
            "    def on_fit_start(self, *given):\n        print('fit starts')\n"
            "    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):\n"
            "        print('batch', batch_idx)\n"
            "    def on_test_end(self, *given):\n        print('test ends')\n"
        ),
        conf={"visuals/mine.yaml": "hooks:\n  _target_: mine.Hooks\n"},
    )
    result = lamella("train", "visuals=mine", "network=linear", "trainer=debug")
    assert result.status == 0, result.err
    words = ["fit starts", "batch 0", "batch 1", "batch 2", "test ends"]
    assert [line for line in result.out.splitlines() if line in words] == words
