"""Metrics of torchmetrics that a config names."""

import inspect
import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import programs
import pytest
import torch
import torchmetrics
import torchmetrics.classification
import torchmetrics.regression
from conftest import Lamella
from torch import Tensor, nn

import lamella as package
from lamella.data import Data
from lamella.errors import RequestError
from lamella.experiment.metrics import build_metrics
from lamella.experiment.model import load_experiment
from lamella.runs.reader import read_run
from lamella.training import epoch_metrics
from lamella.training.epoch_metrics import EpochMetrics
from lamella.training.objective import Objective

SAMPLES, CLASSES, LABELS = 60, 4, 3
PUBLIC = {
    f"{package.__name__.partition('.')[2]}.{name}": getattr(package, name)
    for package in (torchmetrics.classification, torchmetrics.regression)
    for name in package.__all__
}
# The arguments that a class needs and that nothing gives.
NEEDED: dict[str, Any] = {
    "beta": 2.0, "min_recall": 0.5, "min_precision": 0.5, "min_specificity": 0.5, "min_sensitivity": 0.5,
    "threshold": 0.5, "p": 3.0,
}  # fmt: skip
# The classes that give a curve, a matrix, a point with its threshold or several counts, and those that take other data.
REFUSED = re.compile(
    "Curve|ROC$(?<!AUROC)|ConfusionMatrix|AtFixed|AtS|StatScores|StatRates|Fairness|KLDiv|JensenSh|ContinuousR|MultilabelEER"
)
EMPTY = inspect.Parameter.empty
Case = tuple[Objective, Tensor, Tensor, dict[str, Any], Tensor, Tensor]


def case(name: str) -> Case:
    """Objective, outputs, targets, the arguments that they mean, and what torchmetrics takes for them."""
    generator = torch.Generator().manual_seed(3)
    short = name.partition(".")[2]
    if name.startswith("regression"):
        numbers = torch.rand(2, SAMPLES, 1 + (short == "CosineSimilarity"), generator=generator) + 0.1
        return Objective(nn.MSELoss(), "numbers"), *numbers, {}, *numbers.squeeze(-1)
    if short.startswith("Multilabel"):
        outputs = torch.randn(SAMPLES, LABELS, generator=generator)
        labels = (torch.rand(SAMPLES, LABELS, generator=generator) > 0.4).float()
        arguments = {"task": "multilabel", "num_labels": LABELS}
        return Objective(nn.BCEWithLogitsLoss(), "labels"), outputs, labels, arguments, outputs.sigmoid(), labels.long()
    classes = 2 if short.startswith("Binary") or short in ("LogAUC",) else CLASSES
    outputs = torch.randn(SAMPLES, classes, generator=generator)
    indices = torch.randint(classes, (SAMPLES,), generator=generator)
    probabilities = outputs.softmax(1)[:, 1] if short.startswith("Binary") else outputs.softmax(1)
    arguments = {"task": "multiclass", "num_classes": classes}
    return Objective(nn.CrossEntropyLoss(), "classes"), outputs, indices, arguments, probabilities, indices


@pytest.mark.parametrize("name", sorted(PUBLIC))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_metric_is_that_of_the_whole_set_or_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = PUBLIC[name]
    objective, outputs, targets, known, preds, target = case(name)
    takes = inspect.signature(kind).parameters
    # The classes made for one task have no default for these; the others have a default that they refuse.
    written = {key: value for key, value in NEEDED.items() if key in takes and takes[key].default in (None, EMPTY, 1.0)}
    if name.endswith(("EER", "LogAUC")) and "average" in takes:
        written["average"] = "macro"
    if name == "classification.LogAUC":
        written["task"], known, preds = "binary", {}, preds[:, 1]
    node = {"_target_": f"torchmetrics.{name}", **written}
    if REFUSED.search(name):
        with pytest.raises(RequestError, match=r"metrics\.x.*(gives |update takes|cannot be counted)") as refused:
            build_metrics({"x": node}, objective, tuple(outputs.shape[1:]), targets)
        assert refused.value.key == "metrics.x"
        return
    monkeypatch.setattr(epoch_metrics, "HELD", 3 * outputs[:7].numel())  # so that there are several updates
    counted = EpochMetrics(objective, build_metrics({"x": node}, objective, tuple(outputs.shape[1:]), targets))
    for start in range(0, SAMPLES, 7):
        counted.add(outputs[start : start + 7], targets[start : start + 7])
    whole = kind(**written, **{key: value for key, value in known.items() if key in takes})
    whole.update(preds, target)
    assert counted.values()["x"] == pytest.approx(float(whole.compute()), abs=1e-6, nan_ok=True)


def test_positions_and_several_numbers_are_counted() -> None:
    logits, indices = torch.randn(6, 5, CLASSES), torch.randint(CLASSES, (6, 5))
    indices[:, 4] = -100
    objective = Objective(nn.CrossEntropyLoss(), "classes", -1, -100)
    nodes = {
        "perplexity": {"_target_": "torchmetrics.text.Perplexity"},
        "f1": {"_target_": "torchmetrics.F1Score", "average": "macro"},
    }
    counted = EpochMetrics(objective, build_metrics(nodes, objective, (5, CLASSES), indices))
    counted.add(logits, indices)
    flat, answers = logits[:, :4].reshape(-1, CLASSES), indices[:, :4].flatten()
    values = counted.values()
    assert values["perplexity"] == pytest.approx(float(nn.functional.cross_entropy(flat, answers).exp()), rel=1e-5)
    expected = torchmetrics.F1Score("multiclass", num_classes=CLASSES, average="macro")(flat, answers)
    assert values["f1"] == pytest.approx(float(expected))

    outputs, targets = torch.randn(2, 9, 3)
    numbers = Objective(nn.MSELoss(), "numbers")
    node = {"rmse": {"_target_": "torchmetrics.MeanSquaredError", "squared": False}}
    counted = EpochMetrics(numbers, build_metrics(node, numbers, (3,), targets))
    counted.add(outputs, targets)
    assert counted.values()["rmse"] == pytest.approx(float((outputs - targets).square().mean(0).sqrt().mean()))


def test_what_was_counted_in_the_middle_of_a_pass_is_taken_up(monkeypatch: pytest.MonkeyPatch) -> None:
    objective, outputs, targets, *_ = case("classification.F1Score")
    nodes = {name: {"_target_": f"torchmetrics.{name}"} for name in ("AUROC", "F1Score", "CalibrationError")}
    metrics = build_metrics(nodes, objective, (CLASSES,), targets)
    monkeypatch.setattr(epoch_metrics, "HELD", 100)
    whole, begun, resumed = (EpochMetrics(objective, metrics) for _ in range(3))
    parts = [(outputs[start : start + 8], targets[start : start + 8]) for start in range(0, SAMPLES, 8)]
    for number, part in enumerate(parts):
        whole.add(*part)
        (begun if number < 5 else resumed).add(*part)
        if number == 4:
            [state] = begun.states()
            resumed.load(state, torch.device("cpu"))
    assert resumed.values() == whole.values()
    with pytest.raises(RequestError, match=r"in the middle of an epoch with \['AUROC', .*cannot go on with \[\]"):
        EpochMetrics(objective, {}).load(state, torch.device("cpu"))


def records(directory: Path) -> list[tuple[Path, dict[str, Any]]]:
    return [(path.parent, json.loads(path.read_text())) for path in sorted(directory.rglob("run.json"))]


OPTIONS = ("metrics=[f1,auroc,calibration_error]", "device=cpu", "trainer.max_epochs=1", "visuals=none")


def assert_whole(run: Path, metrics: Mapping[str, float]) -> None:
    """The metrics of a run's test are those of torchmetrics for all samples at once."""
    data = load_experiment(run, read_run(run)[1]).data
    assert isinstance(data, Data)
    samples = data.test
    assert isinstance(samples.inputs, Tensor)
    probabilities = package.load(run).predict(samples.inputs)
    expected = {
        "f1": torchmetrics.F1Score("multiclass", num_classes=10, average="macro"),
        "auroc": torchmetrics.AUROC("multiclass", num_classes=10),
        "calibration_error": torchmetrics.CalibrationError("multiclass", num_classes=10),
    }
    for name, metric in expected.items():
        assert metrics[f"test/{name}"] == pytest.approx(float(metric(probabilities, samples.targets)), abs=1e-6)


def test_a_run_takes_its_metrics_everywhere(lamella: Lamella) -> None:
    early = "trainer.callbacks=[{_target_: pytorch_lightning.callbacks.EarlyStopping, monitor: val/calibration_error}]"
    trained = lamella("train", *OPTIONS, "monitor=val/calibration_error", "trainer.max_epochs=2", "name=one", early)
    assert trained.status == 0, trained.err
    assert "note" not in trained.err
    assert " f1 0." in trained.out
    [(run, record)] = records(Path("outputs/one"))
    assert_whole(run, record["metrics"])
    assert record["lower_is_better"] == ["loss", "calibration_error"]
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    errors = [epoch["val/calibration_error"] for epoch in epochs]
    assert record["best_epoch"] == 1 + errors.index(min(errors))
    assert lamella("train", *OPTIONS, "optimizer.lr=1e-6", "name=two").status == 0
    values = lamella("runs", "--sort", "val/calibration_error", "--columns", "val/calibration_error", "--csv").out
    numbers = list(map(float, values.split()[1:]))
    assert numbers == sorted(numbers)
    assert " auroc 0." in lamella("eval", str(run)).out


@pytest.mark.slow(10)
def test_two_processes_count_each_sample_once(tmp_path: Path) -> None:
    options = (*OPTIONS, "trainer=ddp", "trainer.devices=2", "data.batch_size=32")
    programs.run(tmp_path, "train", *options)
    [(run, record)] = records(tmp_path)
    assert_whole(run, record["metrics"])


@pytest.mark.slow
def test_members_of_a_fused_sweep_count_for_themselves(lamella: Lamella) -> None:
    sweep = ("-m", *OPTIONS, "seed=1,2", "hydra/launcher=fused", "hydra.launcher.slots=1", "network=linear")
    objectives = "sweep.objectives=[val/calibration_error,test/f1]"
    result = lamella("train", *sweep, objectives, "monitor=val/f1")
    assert result.status == 0, result.err
    [plan] = Path("outputs").rglob("sweep.json")
    assert json.loads(plan.read_text())["lower_is_better"] == ["loss", "calibration_error"]
    found = records(Path("outputs"))
    assert len(found) == 2
    for run, record in found:
        assert record["inexact"] != []
        assert_whole(run, record["metrics"])


@pytest.mark.slow
def test_an_experiment_chooses_and_changes_metrics(lamella: Lamella) -> None:
    Path("conf/experiment").mkdir(parents=True)
    Path("conf/experiment/mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /metrics: [f1, top5]\n  - _self_\nname: mine\n"
        "metrics:\n  f1:\n    average: micro\n  f2:\n    _target_: torchmetrics.FBetaScore\n    beta: 2.0\n"
        "monitor: val/f2\n"
    )
    assert lamella("train", "experiment=mine", "trainer.max_epochs=1").status == 0
    [(run, record)] = records(Path("outputs"))
    assert {"val/f1", "val/top5", "val/f2"} <= set(record["metrics"])
    assert record["metrics"]["val/f1"] == pytest.approx(record["metrics"]["val/accuracy"], abs=1e-6)
    assert lamella("reproduce", str(run)).status == 0
    sweep = lamella("train", "-m", "experiment=mine", "trainer.max_epochs=1", "metrics=[f1],[f1,auroc]")
    assert sweep.status == 0, sweep.err
    assert "metrics=f1,auroc" in sweep.out


OWN = """import torch
from torchmetrics import Metric


class Wrong(Metric):
    higher_is_better = False

    def __init__(self):
        super().__init__()
        self.add_state("wrong", torch.tensor(0), "sum")

    def update(self, preds, target):
        self.wrong += (preds.argmax(1) != target).sum()

    def compute(self):
        return self.wrong


class Other(Wrong):
    def update(self, output, answer):
        pass
"""


def test_a_metric_of_ones_own(lamella: Lamella) -> None:
    Path("pyproject.toml").write_text('[tool.lamella]\ntargets = ["lab"]\n')
    Path("lab.py").write_text(OWN)
    own = ("train", "trainer.max_epochs=1", "+metrics.wrong._target_=lab.{}", "monitor=val/wrong")
    assert lamella(*(text.format("Wrong") for text in own)).status == 0
    [(_, record)] = records(Path("outputs"))
    assert record["lower_is_better"] == ["loss", "wrong"]
    assert record["metrics"]["test/wrong"] == round(359 * (1 - record["metrics"]["test/accuracy"]))
    refused = lamella(*(text.format("Other") for text in own))
    assert refused.status == 2
    assert "update takes output, answer; a metric here takes (preds, target)" in refused.err


MISTAKES = {
    "metrics=[ff1]": "metrics=ff1: there is no such option; did you mean f1?",
    "metrics=[f1] +metrics.f1.averag=micro": "metrics.f1.averag: F1Score has no such argument; did you mean average?",
    "metrics=[f1] metrics.f1.average=macroo": "metrics.f1.average is 'macroo'; F1Score takes micro or macro",
    "+metrics.x._target_=torchmetrics.F1Scor": "which cannot be imported; did you mean F1Score?",
    "+metrics.x.average=micro": "it takes a mapping with a `_target_`",
    "+metrics.x._target_=torch.nn.Linear": "it takes a subclass of Metric",
    "metrics=[rmse]": "metrics.rmse is torchmetrics.MeanSquaredError, which is for numbers",
    "metrics=[f1] loss=mse data=tensors network=affine": "metrics.f1 is torchmetrics.F1Score, which is for classes",
    "metrics=[f1] metrics.f1.average=none": "gives 10 numbers, and a metric is one; leave out metrics.f1.average",
    "+metrics.x._target_=torchmetrics.classification.EER": "gives 10 numbers, and a metric is one; write metrics.x.av",
    "+metrics.x._target_=torchmetrics.ROC": "gives a tuple, and a metric is one",
    "+metrics.x._target_=torchmetrics.MinMaxMetric": "which wraps other metrics",
    "+metrics.x._target_=torchmetrics.text.BLEUScore": "compares texts, and a network gives numbers",
    "+metrics.x._target_=torchmetrics.MeanMetric": "whose update takes value",
    "+metrics.x._target_=torchmetrics.RetrievalMAP": "whose update takes preds, target, indexes",
    "+metrics.accuracy._target_=torchmetrics.Accuracy": "accuracy is always counted; choose another name",
    "metrics=[f1] +metrics.f1.validate_args=true": "metrics.f1.validate_args: Lamella sets this argument itself",
    "monitor=val/f1": "metrics=[f1] counts f1 too",
    "metrics=[f1] monitor=val/f": "this loss and data give val/loss, val/accuracy, val/f1",
    "metrics=[perplexity]": "metrics.perplexity: Perplexity cannot be counted for outputs (10,) and these classes",
    "metrics=[[f1]]": "a group takes one option",
    "+metrics.f1=x": "metrics.f1 is 'x'; it takes a mapping with a `_target_`",
    "+network._target_=torchmetrics.MeanSquaredError": "a layer or a loss comes from torch.nn, torchvision, lamella",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_mistakes_are_refused(lamella: Lamella, line: str) -> None:
    result = lamella("train", *line.split())
    assert result.status == 2, result.err
    assert MISTAKES[line] in result.err
    assert len(result.err.splitlines()) <= 10
    assert not Path("outputs").exists()


def test_a_list_in_an_experiment_is_explained(lamella: Lamella) -> None:
    Path("conf/experiment").mkdir(parents=True)
    Path("conf/experiment/list.yaml").write_text("# @package _global_\nmetrics: [f1]\n")
    result = lamella("train", "experiment=list")
    assert result.status == 2
    assert "`- override /metrics: [OPTION, …]` in its list of defaults" in result.err


@pytest.mark.parametrize(
    "file", sorted(Path(__file__).parents[1].glob("conf/metrics/*.yaml")), ids=lambda path: path.stem
)
def test_every_option_counts_something(file: Path) -> None:
    import yaml

    node = yaml.safe_load(file.read_text())
    assert list(node) == [file.stem]
    name = {"perplexity": "perplexity"}.get(file.stem)
    kind = "regression" if file.stem in ("r2", "rmse", "mape", "pearson", "spearman") else "classification"
    objective, outputs, targets, *_ = case(f"{kind}.X")
    if name or file.stem == "top5":
        outputs, targets = torch.randn(SAMPLES, 6, 8), torch.randint(8, (SAMPLES, 6))
        objective = Objective(nn.CrossEntropyLoss(), "classes", -1)
    counted = EpochMetrics(objective, build_metrics(node, objective, tuple(outputs.shape[1:]), targets))
    with warnings.catch_warnings():
        counted.add(outputs, targets)
    assert isinstance(counted.values()[file.stem], float)
