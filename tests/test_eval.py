"""`lamella eval`: the test of a recorded run, again or on other data."""

import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import Lamella, contents, write_mnist
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torch import Tensor

import lamella as package
from lamella.data import digits
from lamella.data.samples import split_samples
from lamella.runs.checkpoints import VerifiedCheckpointIO


def test_it_is_the_test_of_the_run(lamella: Lamella, run: Path) -> None:
    recorded = json.loads((run / "run.json").read_text())["metrics"]
    result = lamella("eval", str(run))
    assert result.status == 0, result.err
    written = json.loads((run / "eval.json").read_text())
    assert written["metrics"] == {name: value for name, value in recorded.items() if name.startswith("test/")}
    assert f"359 samples  loss {recorded['test/loss']:.4f} accuracy {recorded['test/accuracy']:.4f}" in result.out
    assert (written["samples"], written["device"]) == (359, "cpu")


def test_scores_are_those_of_scikit_learn(lamella: Lamella, run: Path) -> None:
    result = lamella("eval", str(run))
    written = json.loads((run / "eval.json").read_text())
    _, test = split_samples(digits().train, 0.2, 1, "data.test_size")
    assert isinstance(test.inputs, Tensor)
    predicted = package.load(run).predict(test.inputs).argmax(1)
    assert written["confusion"] == confusion_matrix(test.targets, predicted).tolist()
    columns = precision_recall_fscore_support(test.targets, predicted)
    for name, column in zip(("precision", "recall", "f1", "support"), columns, strict=True):
        assert [row[name] for row in written["classes"]] == pytest.approx(column.tolist())
    assert [row["class"] for row in written["classes"]] == list("0123456789")
    row = written["classes"][3]
    assert f"3      {row['precision']:.4f}     {row['recall']:.4f}" in result.out
    assert "true \\ predicted" in result.out


@pytest.mark.slow
def test_labels_of_pixels(lamella: Lamella) -> None:
    images = digits().train.inputs
    assert isinstance(images, Tensor)
    inputs = images[:8, :, 10:14, 10:14].float() / 255
    lists = f"data.inputs={inputs.tolist()}", f"data.targets={(inputs > 0.5).float().tolist()}"
    Path("conf/network").mkdir(parents=True)
    Path("conf/network/dense.yaml").write_text("layers:\n  - Conv2d: {out_channels: 1, kernel_size: 3, padding: 1}\n")
    data = ("data=tensors", *lists, "data.shape=[1,4,4]", "loss=bce_with_logits", "network=dense")
    trained = lamella("train", *data, "trainer.max_epochs=1", "visuals=none")
    assert trained.status == 0, trained.err
    [run] = Path("outputs/default").iterdir()
    result = lamella("eval", str(run))
    assert result.status == 0, result.err
    [scores] = json.loads((run / "eval.json").read_text())["classes"]
    assert scores["class"] == "0"
    assert scores["support"] > 0


@pytest.mark.slow
def test_another_checkpoint(lamella: Lamella, run: Path) -> None:
    # With one thread, as the run that is evaluated: the bits of a sum depend on the number of threads.
    assert lamella("train", "device.threads=1", "trainer.max_epochs=1", "seed=5").status == 0
    other = Path("outputs/default/device.threads=1,seed=5,trainer.max_epochs=1")
    losses = []
    for checkpoint in ("best", "last", str(other / "checkpoints/best.ckpt")):
        assert lamella("eval", str(run), "--checkpoint", checkpoint, "--out", "x.json").status == 0
        losses.append(json.loads(Path("x.json").read_text())["metrics"]["test/loss"])
    assert losses[0] == losses[1]  # the last epoch is the best one
    assert losses[2] == json.loads((other / "run.json").read_text())["metrics"]["test/loss"]
    assert not (run / "eval.json").exists()


@pytest.mark.slow
def test_data_that_has_moved(lamella: Lamella, mnist_root: Path) -> None:
    shutil.copytree(mnist_root, "here")
    mnist = ("data=mnist", "data.root=here", "data.download=false", "data.val_size=50", "trainer.max_epochs=1")
    assert lamella("train", *mnist).status == 0
    [run] = Path("outputs/default").iterdir()
    recorded = json.loads((run / "run.json").read_text())["metrics"]
    Path("here").rename("there")
    missing = lamella("eval", str(run))
    assert missing.status == 2
    assert "data.root is 'here'" in missing.err
    for overrides in (["data.root=there"], ["data=mnist", "data.root=there", "data.val_size=50"]):
        result = lamella("eval", str(run), *overrides)
        assert result.status == 0, result.err
        assert json.loads((run / "eval.json").read_text())["metrics"]["test/loss"] == recorded["test/loss"]
    finished = lamella("resume", str(run), "data.root=there", "trainer.max_epochs=2")
    assert finished.status == 0, finished.err


def test_other_data_is_normalised_as_the_training_data_was(
    lamella: Lamella, run: Path, digit_images: tuple[Tensor, Tensor]
) -> None:
    images, labels = digit_images
    write_mnist(Path("data"), (images, labels), (images, labels))
    result = lamella("eval", str(run), "data=mnist", "data.val_size=50")
    assert result.status == 0, result.err
    accuracy = json.loads((run / "eval.json").read_text())["metrics"]["test/accuracy"]
    right = package.load(run).predict(images).argmax(1) == labels
    assert accuracy == pytest.approx(right.float().mean().item())


def test_a_run_of_another_machine(lamella: Lamella, run: Path) -> None:
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("accelerator: auto", "accelerator: cuda"))
    if not torch.cuda.is_available():
        refused = lamella("eval", str(run))
        assert refused.status == 2
        assert "use device=auto or device=cpu" in refused.err
    assert lamella("eval", str(run), "device=cpu").status == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "shown", "scored"), [("mse", "mae", 0), ("bce_with_logits", "accuracy", 3)], ids=["numbers", "labels"]
)
def test_targets_that_are_no_classes(lamella: Lamella, loss: str, shown: str, scored: int) -> None:
    data = ("data=tensors", "data.targets=[[1.0,0.0,1.0]]", "network=affine", "trainer.max_epochs=2")
    assert lamella("train", *data, f"loss={loss}", "monitor=val/loss").status == 0
    [run] = Path("outputs/default").iterdir()
    result = lamella("eval", str(run))
    assert result.status == 0, result.err
    written = json.loads((run / "eval.json").read_text())
    assert set(written["metrics"]) == {"test/loss", f"test/{shown}"}
    assert written["confusion"] is None
    assert len(written["classes"]) == scored
    if scored:
        assert [row["support"] for row in written["classes"]] == [1, 0, 1]
        absent = {"class": "1", "precision": None, "recall": None, "f1": None, "support": 0}
        assert written["classes"][1] == absent
        assert re.search(r"^1 +- +- +- +0$", result.out, re.M)


def test_a_loss_that_is_not_finite_is_the_result(lamella: Lamella, run: Path) -> None:
    best = run / "checkpoints/best.ckpt"
    checkpoint = torch.load(best, weights_only=True)
    checkpoint["state_dict"] = {name: value * float("nan") for name, value in checkpoint["state_dict"].items()}
    VerifiedCheckpointIO().save_checkpoint(checkpoint, best)
    result = lamella("eval", str(run))
    assert result.status == 1
    assert result.err == "error: the loss of the test is nan\n"
    assert "359 samples  loss nan accuracy 0.0" in result.out
    assert math.isnan(json.loads((run / "eval.json").read_text())["metrics"]["test/loss"])


def test_what_an_unfinished_run_has_is_tested(lamella: Lamella, run: Path) -> None:
    record = run / "run.json"
    record.write_text(record.read_text().replace('"finished"', '"interrupted"', 1))
    result = lamella("eval", str(run))
    assert result.status == 0
    assert "note: the run is interrupted, after epoch 2; its checkpoints are what it has so far" in result.err


REFUSED = {
    "network.width=3": "network.width has to stay as it was in training",
    "data.roof=x": "data.roof is no key of the run's config;\n  did you mean data.root",
    "data.root": "data.root: an override is KEY=VALUE",
    "data.mean=[0.5]": "data.mean is [0.5], but the run was trained with [0.3057]",
    "elsewhere": "elsewhere: an override is KEY=VALUE",
    "data=digit": "data=digit: there is no such option; did you mean digits?",
    "data=fashion_mnist": "data.classes is ['T-shirt/top', 'Trouser',",
    "data=cifar10": "data.shape is [3, 32, 32], but the run was trained with [1, 28, 28]",
    "data.batch_size=many": "data.batch_size is 'many'; Data takes int",
    "device.compile=true": "device.compile=true changes how training steps are taken, and a test takes none; leave it",
    "device.channels_last=auto": "device.channels_last=auto changes how training steps are taken, and a test takes",
}


@pytest.mark.parametrize("override", REFUSED)
def test_what_cannot_be_changed(lamella: Lamella, run: Path, override: str) -> None:
    (run / "config.yaml").write_text(
        (run / "config.yaml").read_text().replace("  test_size:", "  root: x\n  test_size:")
    )
    before = contents(run)
    result = lamella("eval", str(run), override)
    assert result.status == 2
    assert result.err.startswith(f"error: {REFUSED[override]}")
    assert contents(run) == before


@pytest.mark.slow
def test_other_samples_are_said(lamella: Lamella, image_root: Path) -> None:
    shutil.copytree(image_root / "train", image_root / "test")
    own = ("data=image_folder", f"data.root={image_root}", "data.shape=[1,28,28]", "data.mean=[0]", "data.std=[1]")
    assert lamella("train", *own, "trainer.max_epochs=1").status == 0
    [run] = Path("outputs/default").iterdir()
    assert "note" not in lamella("eval", str(run)).err
    next((image_root / "test").iterdir()).rename(image_root / "test/ship")
    result = lamella("eval", str(run))
    assert result.err.startswith(f"error: data.classes has no 'ship', a folder in {image_root}/test; known: ")
    assert re.search(rf"  from {re.escape(str(run))}/config.yaml:\d+\n$", result.err)
    shutil.rmtree(image_root / "test")
    result = lamella("eval", str(run))
    assert (result.status, result.err) == (
        0,
        "note: these are not the samples that the run was trained and tested with; changed since then: the number of "
        "training samples, the number of validation samples, the number of test samples\n",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["run.json", "config.yaml", "checkpoints"])
@pytest.mark.parametrize("command", ["eval", "predict"])
def test_a_result_takes_no_place_of_the_runs(lamella: Lamella, run: Path, name: str, command: str) -> None:
    out = str(run / name)
    if command == "predict":
        out = out.replace("config.yaml", "run.json").replace("checkpoints", "run.json")
    before = contents(run)
    result = lamella(command, str(run), *(["x.png"] if command == "predict" else []), "--out", out)
    assert (result.status, result.err.startswith(f"error: --out {out}: ")) == (2, True)
    assert contents(run) == before


def test_a_directory_that_cannot_be_written(lamella: Lamella, run: Path) -> None:
    result = lamella("eval", str(run), "--out", "nowhere/x.json")
    assert result.status == 2
    assert "nowhere/x.json: cannot write there (No such file or directory); --out FILE writes elsewhere" in result.err


@pytest.mark.parametrize(("kinds", "count"), [("flip", 2), ("flip,shift", 6)])
def test_views_are_averaged(lamella: Lamella, run: Path, kinds: str, count: int) -> None:
    result = lamella("eval", str(run), "--views", kinds)
    assert result.status == 0, result.err
    written = json.loads((run / "eval.json").read_text())
    model = package.load(run, device="cpu")
    _, test = split_samples(digits().train, 0.2, 1, "data.test_size")
    assert isinstance(test.inputs, Tensor)
    images = model.preprocess(test.inputs)
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1), mode="reflect")
    shifts = [images, padded[..., :-2, :-2], padded[..., 2:, 2:]] if "shift" in kinds else [images]
    views = [view for one in shifts for view in (one, one.flip(3))]
    assert len(views) == count
    with torch.no_grad():
        outputs = torch.stack([model.network(view) for view in views]).mean(0)
    assert written["views"] == kinds
    assert written["metrics"]["test/accuracy"] == pytest.approx(
        float((outputs.argmax(1) == test.targets).float().mean())
    )
    loss = torch.nn.functional.cross_entropy(outputs, test.targets)
    assert written["metrics"]["test/loss"] == pytest.approx(float(loss), rel=1e-4)


def test_views_that_make_no_sense_are_refused(lamella: Lamella, run: Path) -> None:
    wrong = lamella("eval", str(run), "--views", "flop")
    assert (wrong.status, wrong.err.startswith("error: --views: there is no view 'flop'; did you mean flip?")) == (
        2,
        True,
    )
    options = ("trainer.max_epochs=1", "device=cpu", "visuals=none")
    wine = ("data=wine", "network=mlp", "name=wine")
    masks = ("data=shapes", "data.source.count=40", "network=unet", "network.width=2", "name=masks")
    expected = {"wine": "this run has no network that takes images alone", "masks": "these are for each of its pixels"}
    for overrides in (wine, masks):
        assert lamella("train", *overrides, *options).status == 0
    for name, message in expected.items():
        [path] = Path("outputs", name).iterdir()
        refused = lamella("eval", str(path), "--views", "flip")
        assert (refused.status, message in refused.err) == (2, True), refused.err
