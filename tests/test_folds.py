"""Cross-validation: which sample is in which fold, what the leaderboard makes of the folds, and which are refused."""

import csv
import json
import shutil
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import programs
import pytest
import sklearn
import torch
from conftest import Lamella, Shared
from PIL import Image
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold
from torch import Tensor

import lamella as package
from lamella.commands.predict_sweep import check_alike, out_of_fold
from lamella.data import Data, Samples, Splits, bundled_table, digits, text_csv
from lamella.data.folds import TEST
from lamella.errors import RequestError

FAST = ("network=linear", "trainer.max_epochs=1", "device.threads=1", "+data.source.size=8", "data.shape=[1,8,8]")
SWEEP = Path("outputs/default/s")


def data_of(source: Splits, count: int, **options: Any) -> Data:
    return Data(source, None, 64, count, test_size=0.2, **options)


def numbers_of(source: Splits, count: int, **options: Any) -> Tensor:
    folds = data_of(source, count, fold=0, **options).folds
    assert folds is not None
    return folds.numbers


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def records(*names: str) -> list[dict[str, float]]:
    return [json.loads((SWEEP / name / "run.json").read_text())["metrics"] for name in names]


@pytest.fixture
def sweep(lamella: Lamella, shared: Shared) -> Path:
    """A cross-validation of three folds in the working directory."""
    line = ("train", "-m", "data.folds=3", *FAST, "sweep.name=s")
    shutil.copytree(shared("folds", lambda path: programs.run(path, *line)) / "outputs", "outputs")
    return SWEEP


# Which sample is in which fold


@pytest.mark.parametrize(("folds", "seed"), [(5, 0), (3, 7)])
def test_classes_are_divided_as_scikit_learn_does_it(folds: int, seed: int) -> None:
    source = digits(8)
    numbers = numbers_of(source, 10, folds=folds, split_seed=seed)
    kept = (numbers != TEST).nonzero().flatten()
    assert len(kept) == 1797 - 359
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    for fold, (train, val) in enumerate(splitter.split(kept.numpy(), source.train.targets[kept].numpy())):
        data = data_of(source, 10, folds=folds, fold=fold, split_seed=seed)
        assert torch.equal(data.train.targets, source.train.targets[kept[torch.from_numpy(train)]])
        assert isinstance(data.val.inputs, Tensor)
        assert isinstance(source.train.inputs, Tensor)
        assert torch.equal(data.val.inputs, source.train.inputs[kept[torch.from_numpy(val)]])


def test_numbers_are_divided_as_scikit_learn_does_it() -> None:
    source = bundled_table("diabetes")
    numbers = numbers_of(source, 1, folds=4, split_seed=3).numpy()
    kept = np.flatnonzero(numbers != TEST)
    for fold, (_, val) in enumerate(KFold(4, shuffle=True, random_state=3).split(kept)):
        assert np.array_equal(kept[val], np.flatnonzero(numbers == fold))


def test_a_test_set_of_its_own_is_in_no_fold() -> None:
    samples = digits(8).train
    source = Splits(samples, test=samples.take(torch.arange(100)))
    data = data_of(source, 10, folds=4, fold=2)
    assert len(data.test) == 100
    assert len(data.train) + len(data.val) == len(samples)
    assert data.folds is not None
    assert data.folds.numbers.min() == 0


def test_a_note_says_how_many_samples_are_in_several_folds() -> None:
    samples = digits(8).train.take(torch.arange(200))
    twice = Samples(torch.cat([samples.inputs] * 2), samples.targets.repeat(2))  # type: ignore[list-item]
    source = Splits(twice, test=samples)
    numbers = numbers_of(source, 10, folds=5)
    apart = 2 * int((numbers[:200] != numbers[200:]).sum())
    assert 0 < apart < 400
    for fold in (0, 3):
        assert [note for note in data_of(source, 10, folds=5, fold=fold).notes() if "equal one" in note] == [
            f"{apart} samples equal one of another fold, which validates what was trained on it"
        ]
    assert not [note for note in data_of(digits(8), 10, folds=5, fold=0).notes() if "equal one" in note]


def grouped(samples: Samples, count: int, seed: int) -> Samples:
    """The samples, in `count` groups of different sizes."""
    groups = np.random.default_rng(seed).integers(0, count, len(samples)) // 2
    return Samples(samples.inputs, samples.targets, torch.from_numpy(groups))


STRATIFIED = pytest.mark.skipif(
    sklearn.__version__ < "1.8", reason="StratifiedGroupKFold stratified nothing where it shuffled"
)


@pytest.mark.parametrize("folds", [2, 5])
@pytest.mark.parametrize("splitter", [pytest.param(StratifiedGroupKFold, marks=STRATIFIED), GroupKFold])
def test_groups_are_divided_as_scikit_learn_does_it(splitter: Any, folds: int) -> None:
    source = digits(8) if splitter is StratifiedGroupKFold else bundled_table("diabetes")
    samples = grouped(source.train, 60, seed=folds)
    numbers = numbers_of(Splits(samples, encoder=source.encoder), 10, folds=folds, split_seed=4).numpy()
    assert samples.groups is not None
    kept = np.flatnonzero(numbers != TEST)
    targets, groups = samples.targets.numpy()[kept], samples.groups.numpy()[kept]
    parts = splitter(folds, shuffle=True, random_state=4).split(kept, targets, groups)
    for fold, (_, val) in enumerate(parts):
        assert np.array_equal(kept[val], np.flatnonzero(numbers == fold))
    assert not {*groups} & {*samples.groups.numpy()[numbers == TEST]}


def test_groups_are_not_divided_where_samples_are_cut_off() -> None:
    samples = grouped(digits(8).train, 100, seed=0)
    position = torch.arange(len(samples)).reshape(-1, 1).float()
    for seed in range(3):
        data = Data(
            Splits(Samples(position, samples.targets, samples.groups)), None, 64, 10, split_seed=seed, test_size=0.2
        )
        assert samples.groups is not None
        parts = [samples.groups[part.inputs[:, 0].long()] for part in data.splits.values()]  # type: ignore[index]
        assert sum(len(set(part.tolist())) for part in parts) == len(set(samples.groups.tolist()))
        assert [len(part) / len(samples) for part in parts] == pytest.approx([0.72, 0.08, 0.2], abs=0.02)


def test_a_size_that_no_group_has() -> None:
    samples = digits(8).train
    with pytest.raises(RequestError, match=r"data.test_size is 0.2, 359 of 1797 samples, .* the smallest of 897;"):
        data_of(Splits(Samples(samples.inputs, samples.targets, torch.arange(1797) // 900)), 10)


def test_equal_samples_are_in_one_fold() -> None:
    samples = digits(8).train.take(torch.arange(200))
    inputs = torch.cat([samples.inputs] * 2)  # type: ignore[list-item]
    source = Splits(Samples(inputs, samples.targets.repeat(2)), test=samples)
    data = data_of(source, 10, folds=5, fold=0, group_duplicates=True)
    assert data.folds is not None
    assert torch.equal(data.folds.numbers[:200], data.folds.numbers[200:])
    said = "200 samples equal an earlier one, and are in its fold; data.group_duplicates=false divides them"
    assert [note for note in data.notes() if "equal" in note] == [said]
    # A group that shares a sample with another one is in its fold.
    groups = torch.arange(400) // 20
    numbers = numbers_of(
        Splits(Samples(inputs, source.train.targets, groups), test=samples), 10, folds=5, group_duplicates=True
    )
    assert torch.equal(numbers[:200], numbers[200:])
    assert all(len(set(numbers[groups == group].tolist())) == 1 for group in range(20))
    # Where no sample equals another one, the folds are those that they always were.
    assert torch.equal(numbers_of(digits(8), 10, folds=5), numbers_of(digits(8), 10, folds=5, group_duplicates=True))


def test_texts_have_groups(tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    path.write_text("text,mood,author\nwell,good,b\nbad,bad,a\nfine,good,b\nugly,bad,\n")
    with pytest.raises(RequestError, match="row 5, column author: the cell names no group"):
        text_csv(str(path), "text", "mood", ["bad", "good"], 8, groups="author")
    path.write_text(path.read_text().replace("bad,\n", "bad,c\n"))
    groups = text_csv(str(path), "text", "mood", ["bad", "good"], 8, groups="author").train.groups
    assert groups is not None
    assert groups.tolist() == [1, 0, 1, 2]


# Runs and sweeps


@pytest.mark.slow
def test_a_cross_validation_is_one_row(lamella: Lamella, sweep: Path) -> None:
    line = ("train", "-m", "data.folds=3", *FAST, "sweep.name=s")
    names = [f"fold={fold}" for fold in range(3)]
    assert sorted(path.name for path in SWEEP.iterdir() if path.is_dir()) == names
    [row] = json.loads((SWEEP / "leaderboard.json").read_text())["rows"]
    for name in ("val/accuracy", "test/loss"):
        values = [metrics[name] for metrics in records(*names)]
        assert row[name] == pytest.approx(statistics.fmean(values))
        assert row[f"{name} std"] == pytest.approx(statistics.stdev(values))
    assert row["n"] == 3
    # The file of the folds says which samples the mean is of.
    [text] = {(SWEEP / name / "folds.csv").read_text() for name in names}
    rows = list(csv.DictReader(text.splitlines()))
    targets = digits(8).train.targets.numpy()
    kept = np.array([int(row["sample"]) for row in rows if row["fold"] != "test"])
    found = np.array([int(row["fold"]) for row in rows if row["fold"] != "test"])
    split = StratifiedKFold(3, shuffle=True, random_state=0).split(kept, targets[kept])
    assert all(np.array_equal(np.flatnonzero(found == fold), val) for fold, (_, val) in enumerate(split))
    # A member is an ordinary run, and the same line finds all of them.
    assert "3 of them finished" in lamella(*line).out
    for command in ("eval", "reproduce"):
        result = lamella(command, str(SWEEP / "fold=1"))
        assert result.status == 0, result.err
        assert "training" not in result.err
    result = lamella("eval", str(SWEEP / "fold=1"), "data.split_seed=1")
    assert "test samples were training or validation samples of the run" in result.err


@pytest.mark.slow
def test_rows_are_over_what_the_sweep_names(lamella: Lamella) -> None:
    line = ("train", "-m", "data.folds=2", "seed=0,1", *FAST, "hydra/launcher=fused", "sweep.name=s")
    result = lamella(*line, "sweep.over=[seed]")
    assert result.status == 0, result.err
    rows = json.loads((SWEEP / "leaderboard.json").read_text())["rows"]
    assert sorted((row["data.fold"], row["n"]) for row in rows) == [(0, 2), (1, 2)]
    assert lamella(*line).status == 0
    [row] = json.loads((SWEEP / "leaderboard.json").read_text())["rows"]
    assert row["n"] == 4


@pytest.mark.slow
def test_out_of_fold_predictions(lamella: Lamella, sweep: Path) -> None:
    result = lamella("predict", str(sweep))
    assert result.status == 0, result.err
    assert f"samples: 1,438; all in {sweep}/out_of_fold.csv" in result.out
    assert result.out.split()[:5] == ["sample", "fold", "target", "class", "probability"]
    rows = read_rows(sweep / "out_of_fold.csv")
    divided = [row for row in read_rows(sweep / "fold=0/folds.csv") if row["fold"] != "test"]
    assert [(row["sample"], row["fold"]) for row in rows] == [(row["sample"], row["fold"]) for row in divided]
    targets = digits(8).train.targets
    assert [int(row["target"]) for row in rows] == [int(targets[int(row["sample"])]) for row in rows]
    sizes = [sum(row["fold"] == str(fold) for row in rows) for fold in range(3)]
    scores = [record["val/accuracy"] for record in records("fold=0", "fold=1", "fold=2")]
    right = sum(row["class"] == row["target"] for row in rows)
    assert right / len(rows) == pytest.approx(np.average(scores, weights=sizes))
    assert all(sum(float(row[name]) for name in "0123456789") == pytest.approx(1) for row in rows)
    assert lamella("predict", str(sweep), "--out", "x.jsonl").status == 0
    first = json.loads(Path("x.jsonl").read_text().splitlines()[0])
    assert [*first] == ["sample", "fold", "target", "class", "probabilities"]


@pytest.mark.slow
def test_a_sweep_predicts_the_mean_of_its_members(lamella: Lamella, sweep: Path) -> None:
    for number in range(3):
        pixels = digits(8).train.inputs[torch.tensor([number])][0, 0]  # type: ignore[index]
        Image.fromarray(pixels.numpy()).save(f"{number}.png")
    Path("3.png").write_text("no image")
    found = []
    for run in (*(sweep / f"fold={fold}" for fold in range(3)), sweep):
        assert lamella("predict", str(run), "0.png", "1.png", "2.png", "3.png", "--out", "x.csv").status == 1
        rows = read_rows(Path("x.csv"))
        assert [row["file"] for row in rows] == ["0.png", "1.png", "2.png"]
        found.append([[float(row[name]) for name in "0123456789"] for row in rows])
    assert np.allclose(np.mean(found[:3], axis=0), found[3], atol=1e-6)
    assert not np.allclose(found[0], found[3], atol=1e-3)


@pytest.mark.slow
def test_groups_and_numbers_of_a_table(lamella: Lamella) -> None:
    """Both members scale the columns by their own training rows, and both predict in the unit of the file."""
    source = bundled_table("diabetes")
    bmi, bp = (source.train.inputs.tensors[name][:60] for name in ("bmi", "bp"))  # type: ignore[union-attr]
    lines = [f"{bmi[row]:.2f},{bp[row]:.2f},p{row // 3},{source.train.targets[row, 0]:.0f}" for row in range(len(bmi))]
    Path("rows.csv").write_text("\n".join(["bmi,bp,patient,progression", *lines]))
    table = ("data=csv", "data.path=rows.csv", "data.kind=numbers", "data.target=progression", "data.groups=patient")
    options = ("loss=mse", "monitor=val/loss", "network=mlp", "trainer.max_epochs=1", "device.threads=1")
    result = lamella("train", "-m", *table, "data.standardize_target=true", *options, "data.folds=2", "sweep.name=s")
    assert result.status == 0, result.err
    folds = [row["fold"] for row in read_rows(SWEEP / "fold=0/folds.csv")]
    assert all(len(set(folds[start : start + 3])) == 1 for start in range(0, 60, 3))
    state = json.loads((SWEEP / "fold=0/preprocessing.json").read_text())
    assert [*state["columns"]] == ["bmi", "bp"]

    assert lamella("predict", str(SWEEP)).status == 0
    rows = read_rows(SWEEP / "out_of_fold.csv")
    assert [*rows[0]] == ["sample", "fold", "target", "progression"]
    for row in rows:
        assert row["fold"] == folds[int(row["sample"])]
        assert float(row["target"]) == pytest.approx(float(source.train.targets[int(row["sample"]), 0]), abs=1e-3)
    assert lamella("predict", str(SWEEP), "rows.csv", "--out", "x.csv").status == 0
    means = [float(row["progression"]) for row in read_rows(Path("x.csv"))]
    runs = [package.load(SWEEP / f"fold={fold}").predict(["rows.csv"])[:, 0] for fold in (0, 1)]
    assert means == pytest.approx(((runs[0] + runs[1]) / 2).tolist())
    # A row that has changed may have been in the training.
    Path("rows.csv").write_text(Path("rows.csv").read_text().replace(",151\n", ",152\n"))
    result = lamella("predict", str(SWEEP))
    assert result.status == 2
    assert "fold=0: the data have changed since the training" in result.err


def rewrite(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def drop_member(path: Path) -> None:
    (path / "plan.jsonl").write_text("".join((path / "plan.jsonl").read_text().splitlines(keepends=True)[:-1]))


# What is done to a sweep before it is asked, the arguments, and what is said.
REFUSED: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "unfinished": (
        lambda path: rewrite(path / "fold=1/run.json", '"finished",', '"interrupted",'),
        "",
        "s: 1 of the 3 members of this sweep are not finished: fold=1 (interrupted);\n  finish them with `lamella",
    ),
    "no folds": (
        lambda path: rewrite(path / "fold=1/config.yaml", "folds: 3", "folds: null"),
        "",
        "s: this sweep has no folds, of which it could predict the samples; name files",
    ),
    "settings": (
        lambda path: rewrite(path / "plan.jsonl", '"data.fold=1"', '"data.fold=1", "optimizer.lr=1"'),
        "",
        "s: its members differ in optimizer.lr, and out-of-fold predictions are of one setting",
    ),
    "divisions": (
        lambda path: rewrite(path / "fold=1/folds.csv", "\n0,", "\n0,9"),
        "",
        "s: its members differ in how they divide the samples (data.split_seed), and",
    ),
    "missing": (drop_member, "", "s: no member validates fold 2; train with `lamella train -m data.folds=3`"),
    "prompt": (str, "--prompt x", "--prompt: one network continues a text; give one member, as outputs/default/s/fold"),
    "checkpoint": (str, "x.png --checkpoint a.ckpt", "--checkpoint a.ckpt: for a sweep it is best or last"),
    "folder": (str, "--out folder", "--out folder: the name must end in .csv, .json or .jsonl"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_what_a_sweep_does_not_predict(lamella: Lamella, sweep: Path, name: str) -> None:
    change, arguments, said = REFUSED[name]
    change(sweep)
    result = lamella("predict", str(sweep), *arguments.split())
    assert result.status == 2
    assert said in result.err
    assert not (sweep / "out_of_fold.csv").exists()


@pytest.mark.slow
def test_members_without_a_mean(lamella: Lamella, sweep: Path, trained: Path) -> None:
    model = package.load(sweep / "fold=0")
    for other, said in (
        (replace(model, classes=["a"]), r"b has other classes than a, \['a'\] in place of \['0', '1'"),
        (replace(model, output=(7,)), r"b has other outputs than a, \(7,\) in place of \(10,\)"),
        (replace(model, reconstructs=True), "b: its network gives pictures, and the mean of the pictures"),
    ):
        with pytest.raises(RequestError, match=said):
            check_alike([Path("a"), Path("b")], [model, other])
    with pytest.raises(RequestError, match=r"fold=0: out-of-fold .* its network gives \(4, 8, 8\) for an input"):
        out_of_fold([sweep / "fold=0"], [replace(model, output=(4, 8, 8))], "best")
    shutil.rmtree(sweep / "fold=2")
    shutil.copytree(trained, sweep / "fold=2")
    result = lamella("predict", str(sweep), "x.png")
    assert result.status == 2
    assert "fold=2 has other images than outputs/default/s/fold=0, Decoder(shape=(1, 28, 28)" in result.err


# Mistakes

MISTAKES = {
    "data.folds=1 data.fold=0": "error: data.folds is 1; it takes 2 or more, or null for none",
    "data.folds=5": "error: data.folds is 5, and data.fold is null; write data.fold=0 for one run, or",
    "data.folds=5 data.fold=5": "error: data.fold is 5; with data.folds=5 it takes 0 to 4",
    "data.folds=5 data.fold=-1": "error: data.fold is -1; with data.folds=5 it takes 0 to 4",
    "data.fold=0": "error: data.fold is 0, and data.folds is null; write how many there are, as data.folds=5",
    "data.folds=200 data.fold=0": "samples of class",
    "data=diabetes network=mlp loss=mse monitor=val/loss data.folds=400 data.fold=0": "beside the test there are 354",
    "data=tensors data.folds=2 data.fold=0": "but the source has validation samples of its own",
    "data.folds=5 data.fold=0 data.val_size=0.2": "error: data.val_size has no effect with data.folds=5",
    "-m data.folds=3 sweep.over=[optimizer.lr]": "error: sweep.over: optimizer.lr has no values here",
    "-m data.folds=3 sweep.over=seed": "error: sweep.over is 'seed'; it takes a list of keys, as [seed,data.fold]",
    "data.group_duplicates=false": "error: data.group_duplicates has no effect without data.folds; leave it out",
    "data=csv data.path=rows.csv data.target=y data.groups=patiant": "error: data.groups is 'patiant'; rows.csv has no",
    "data=csv data.path=rows.csv data.target=y data.groups=ward": "error: rows.csv: row 4, column ward: the cell names",
    "data=csv data.path=rows.csv data.target=y data.groups=patient data.folds=4 data.fold=0 data.test_size=2": "error: "
    "data.folds is 4, but beside the test there are 2 groups of samples that are not divided; each fold needs one",
    "-m data.folds=3,4": "error: data.folds is 3, and data.fold is null",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_mistakes(lamella: Lamella, line: str) -> None:
    rows = [f"{row}.5,p{row // 2},{'w' * (row != 2)},{'ab'[row % 2]}\n" for row in range(6)]
    Path("rows.csv").write_text("x,patient,ward,y\n" + "".join(rows))
    result = lamella("train", *line.split())
    assert result.status == 2
    assert MISTAKES[line] in result.err
    assert len(result.err.splitlines()) <= 20
    assert not Path("outputs").exists()


def test_no_validation_has_no_folds(lamella: Lamella) -> None:
    Path("conf/experiment").mkdir(parents=True)
    Path("conf/experiment/none.yaml").write_text("# @package _global_\ndata:\n  val_size: 0\n")
    result = lamella("train", "experiment=none", "monitor=train/loss", "data.folds=5", "data.fold=0")
    assert result.status == 2
    assert "error: data.val_size is 0, but with data.folds the samples of a fold validate" in result.err
