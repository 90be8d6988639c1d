"""Cross-validation: which sample is in which fold, what the leaderboard makes of the folds, and which are refused."""

import csv
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Lamella
from sklearn.model_selection import KFold, StratifiedKFold
from torch import Tensor

from lamella.data import Data, Samples, Splits, bundled_table, digits
from lamella.data.folds import TEST

FAST = ("network=linear", "trainer.max_epochs=1", "device.threads=1", "+data.source.size=8", "data.shape=[1,8,8]")
SWEEP = Path("outputs/default/s")


def data_of(source: Splits, count: int, **options: Any) -> Data:
    return Data(source, None, 64, count, test_size=0.2, **options)


def numbers_of(source: Splits, count: int, **options: Any) -> Tensor:
    folds = data_of(source, count, fold=0, **options).folds
    assert folds is not None
    return folds.numbers


def records(*names: str) -> list[dict[str, float]]:
    return [json.loads((SWEEP / name / "run.json").read_text())["metrics"] for name in names]


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


# Runs and sweeps


@pytest.mark.slow
def test_a_cross_validation_is_one_row(lamella: Lamella) -> None:
    line = ("train", "-m", "data.folds=3", *FAST, "sweep.name=s")
    result = lamella(*line)
    assert result.status == 0, result.err
    assert "3 jobs" in result.out
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
    "-m data.folds=3,4": "error: data.folds is 3, and data.fold is null",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_mistakes(lamella: Lamella, line: str) -> None:
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
