"""The metrics of each sample that a run keeps: their means are its metrics, and they are in the order of the data."""

import json
from pathlib import Path

import numpy as np
import programs
import pytest
from conftest import Lamella, Project

from lamella.data import digits
from lamella.data.samples import split_samples
from lamella.runs.sample_metrics import Array, read_sample_metric

SHORT = ("device=cpu", "device.threads=1", "trainer.max_epochs=2", "visuals=none", "name=kept")


def kept(run: Path) -> dict[str, Array]:
    with np.load(run / "samples.npz") as arrays:
        return dict(arrays)


def check_means(run: Path, *expected: str) -> dict[str, Array]:
    """Check that the metrics of the record are the means of the values that a run has kept, under these names."""
    arrays, metrics = kept(run), json.loads((run / "run.json").read_text())["metrics"]
    names = {name for name in arrays if not name.endswith("/targets")}
    assert names == {f"{stage}/{name}" for stage in ("val", "test") for name in expected}
    for name in names:
        assert arrays[name].mean(dtype=float) == pytest.approx(metrics[name], rel=1e-5), name
    return arrays


def test_answers_are_those_of_the_test(lamella: Lamella, run: Path) -> None:
    arrays = check_means(run, "loss", "accuracy")
    assert {name: values.dtype.name for name, values in arrays.items() if name.startswith("test/")} == {
        "test/accuracy": "bool",
        "test/loss": "float32",
        "test/targets": "int64",
    }
    assert lamella("eval", str(run)).status == 0
    confusion = np.array(json.loads((run / "eval.json").read_text())["confusion"])
    _, test = split_samples(digits().train, 0.2, 1, "data.test_size")
    for label in range(10):
        assert arrays["test/accuracy"][test.targets.numpy() == label].sum() == confusion[label, label]


@pytest.mark.slow(12)
@pytest.mark.parametrize(
    ("options", "names"),
    [
        ("network=linear loss.weight=balanced data.batch_size=50", ["loss", "accuracy"]),
        ("network=linear loss=bce_with_logits", ["loss", "accuracy"]),
        ("network=linear loss.label_smoothing=0.1 loss.weight=[1,2,3,4,5,1,2,3,4,5]", ["loss", "accuracy"]),
        (
            "data=shapes network=unet network.width=4 data.source.count=64 trainer.max_epochs=1",
            ["loss", "accuracy"],
        ),
        ("experiment=tabular_regression", ["loss", "mae"]),
        ("experiment=multilabel network=linear", ["loss", "accuracy"]),
        ("experiment=autoencoder trainer.max_epochs=1", ["loss", "mae"]),
        ("loss=own network=linear +trainer.val_check_interval=0.5", ["accuracy"]),
        ("task._target_=mine.Mine network=linear", ["accuracy"]),
    ],
)
def test_the_means_are_the_metrics(lamella: Lamella, project: Project, options: str, names: list[str]) -> None:
    project(
        {"loss/own.yaml": "_target_: mine.Own\n"},
        mine="import torch, lamella\n"
        "class Own(torch.nn.Module):\n"
        "    reads = 'classes'\n"
        "    def forward(self, output, targets): return torch.nn.functional.cross_entropy(output, targets) ** 2\n"
        "class Mine(lamella.Task):\n"
        "    def step(self, batch):\n"
        "        output = self.network(batch[0])\n"
        "        return {'loss': 2 * self.objective(output, batch[1]), 'output': output}\n",
    )
    result = lamella("train", *SHORT, *options.split())
    assert result.status == 0, result.err
    [run] = Path("outputs/kept").iterdir()
    check_means(run, *names)


@pytest.mark.slow
def test_the_best_epoch_is_kept_and_not_the_last(lamella: Lamella) -> None:
    result = lamella("train", *SHORT, "optimizer.lr=1.0", "trainer.max_epochs=5", "network=linear")
    assert result.status == 0, result.err
    [run] = Path("outputs/kept").iterdir()
    assert json.loads((run / "run.json").read_text())["best_epoch"] < 5
    check_means(run, "loss", "accuracy")


@pytest.mark.slow
def test_a_run_without_a_test_keeps_the_validation(lamella: Lamella) -> None:
    result = lamella("train", *SHORT, "trainer.test=false", "network=linear")
    assert result.status == 0, result.err
    [run] = Path("outputs/kept").iterdir()
    assert {*kept(run)} == {"val/targets", "val/accuracy", "val/loss"}


@pytest.mark.slow(10)
def test_several_processes_and_fused_jobs_keep_the_same_order(tmp_path: Path, lamella: Lamella, run: Path) -> None:
    one = kept(run)
    programs.run(tmp_path, "train", *SHORT, "network=linear", "trainer=ddp", "trainer.devices=2")
    line = ("-m", "hydra/launcher=fused", "hydra.launcher.slots=1", "seed=0,1", "network=linear", "name=fused")
    programs.run(tmp_path, "train", *SHORT, *line, "sweep.name=s")
    for path in (*tmp_path.glob("outputs/kept/*"), *tmp_path.glob("outputs/fused/s/seed=*")):
        arrays = check_means(path, "loss", "accuracy")
        assert {arrays[f"{stage}/targets"] == one[f"{stage}/targets"] for stage in ("val", "test")} == {True}


def test_a_damaged_file_is_no_file(run: Path) -> None:
    found = read_sample_metric(run, "val/accuracy")
    assert found is not None
    assert len(found.values) == 144
    assert read_sample_metric(run, "val/f1") is None
    file = run / "samples.npz"
    content = file.read_bytes()
    for damaged in (b"", content[:-30], content[:100], b"no archive", content[:50] + b"\0" * 200 + content[250:]):
        file.write_bytes(damaged)
        assert read_sample_metric(run, "val/accuracy") is None
    file.unlink()
    assert read_sample_metric(run, "val/accuracy") is None
