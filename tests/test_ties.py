"""Rows of a leaderboard that cannot be told from the best: the statistics by simulation, and what is printed."""

import csv
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import ties
from conftest import Lamella

from lamella.experiment.intervals import bootstrap_interval, wilson_interval
from lamella.runs.sample_metrics import Array
from lamella.sweeps.ties import Row, compare_rows

SWEEP = Path("outputs/default/s")
SHORT = ("network=linear", "visuals=none", "sweep.name=s")


@pytest.mark.slow(8)
@pytest.mark.parametrize(
    ("rows", "runs", "samples", "seeds"),
    [(2, 1, 200, 0.0), (10, 1, 500, 0.0), (2, 2, 500, 0.5), (5, 2, 1000, 0.2), (5, 3, 1000, 0.5), (10, 3, 200, 0.2)],
)
def test_equal_rows_are_called_different_in_at_most_six_percent(
    rows: int, runs: int, samples: int, seeds: float
) -> None:
    # Of 300 leaderboards, 5 % and two standard errors of what is drawn here.
    assert ties.share_different(300, rows, runs, samples, seeds) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 300)


def test_the_share_is_five_percent_where_nothing_is_counted_twice() -> None:
    assert ties.share_different(600, 5, 1, 500, 0.0) == pytest.approx(0.05, abs=0.02)


def test_a_better_row_is_told_from_the_others() -> None:
    assert ties.share_different(40, 5, 3, 2000, 0.1, ahead=1.5) == 1


def test_skewed_losses_are_compared_too() -> None:
    random = np.random.default_rng(0)
    found = 0
    for number in range(300):
        common = random.lognormal(sigma=1.0, size=500)
        rows: list[Row] = [{0: [(common * random.lognormal(size=500)).astype("float32")]} for _ in range(4)]
        rows.sort(key=lambda row: float(row[0][0].mean()))
        found += not compare_rows(rows, number).tied.all()
    assert found / 300 <= 0.075


def test_rows_that_answer_alike_are_tied() -> None:
    answers = np.arange(300) % 7 > 0
    found = compare_rows([{0: [answers]}, {0: [answers.copy()]}, {0: [np.zeros(300, dtype=bool)]}])
    assert found.tied.tolist() == [True, True, False]
    assert found.margin[1] == 0


def test_so_many_more_seeds_tell() -> None:
    """Half of the time, rows are told apart with so many runs as the comparison of few runs says, on the average."""
    random = np.random.default_rng(0)
    advice = []
    for number in range(60):
        found = compare_rows([{0: row} for row in ties.answers(random, 2, 4, 5000, 0.5, ahead=0.4)], number)
        advice += [found.seeds[1]] if found.tied[1] else []
    more = int(np.median(advice))
    assert 1 <= more <= 40
    told = ties.share_different(60, 2, 4 + more, 5000, 0.5, ahead=0.4)
    assert 0.3 < told < 0.95


def test_no_number_of_seeds_replaces_samples() -> None:
    random = np.random.default_rng(0)
    common = random.random(100) < 0.8
    other = common ^ (random.random(100) < 0.02)
    rows: list[list[Array]] = [[one.copy() for _ in range(3)] for one in (common, other)]
    found = compare_rows([{0: row} for row in sorted(rows, key=lambda row: -float(np.mean(row)))])
    assert found.over_seeds
    assert found.tied.all()
    assert math.isinf(found.seeds[1])


def test_folds_are_sets_of_samples_of_their_own() -> None:
    random = np.random.default_rng(0)
    rows: list[Row] = []
    for share in (0.9, 0.88, 0.6):
        rows.append({fold: [random.random(200) < share] for fold in range(5)})
    found = compare_rows(rows)
    assert found.tied.tolist() == [True, True, False]
    assert (found.samples, found.over_seeds) == (1000, False)
    # The five folds together tell as much as one set of all samples.
    whole = compare_rows([{0: [np.concatenate([values for [values] in row.values()])]} for row in rows])
    assert found.margin == pytest.approx(whole.margin, rel=0.1)


def test_intervals_contain_the_truth() -> None:
    random = np.random.default_rng(0)
    for share in (0.02, 0.5, 0.97):
        found = [wilson_interval(int(random.binomial(150, share)), 150) for _ in range(1000)]
        assert np.mean([low <= share <= high for low, high in found]) == pytest.approx(0.95, abs=0.025)
    assert wilson_interval(150, 150) == pytest.approx((0.975, 1), abs=0.001)
    found = [bootstrap_interval(random.exponential(size=200).astype("float32"), random=number) for number in range(60)]
    assert np.mean([low <= 1 <= high for low, high in found]) > 0.85
    many = random.exponential(size=50_000).astype("float32")
    low, high = bootstrap_interval(many)
    assert (high - low) == pytest.approx(2 * 1.96 * many.std() / math.sqrt(len(many)), rel=0.1)


def leaderboard() -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads((SWEEP / "leaderboard.json").read_text())["rows"]
    return rows


@pytest.mark.slow(12)
def test_the_leaderboard_marks_ties(lamella: Lamella) -> None:
    line = ("train", "-m", "optimizer.lr=1e-2,9e-3,1e-6", "seed=0,1,2", "trainer.max_epochs=3", *SHORT)
    result = lamella(*line)
    assert result.status == 0, result.err
    rows = leaderboard()
    assert [row["tied"] for row in rows] == [True, True, False]
    assert rows[2]["optimizer.lr"] == 1e-6
    shown = lamella("runs", str(SWEEP)).out
    assert "\n* cannot be told from the best: 95 % interval over 144 samples and the seeds\n" in shown
    assert [bool(re.search(r" \*  +outputs", text)) for text in shown.splitlines()[1:4]] == [True, True, False]
    told = re.findall(r"about (\d+) more seeds? for each row would tell optimizer\.lr=\S+ from the best", shown)
    assert told == ([str(rows[1]["more seeds"])] if rows[1]["more seeds"] else [])
    with (SWEEP / "leaderboard.csv").open() as file:
        assert [row["tied"] for row in csv.DictReader(file)] == ["True", "True", "False"]

    # Runs of an earlier version have no such file.
    for kept in SWEEP.glob("*/samples.npz"):
        kept.unlink()
    old = lamella("runs", str(SWEEP)).out
    assert old.endswith("\n\nties are not marked: the runs have not kept val/accuracy of each sample\n")
    assert "tied" not in old.partition("\n")[0]


@pytest.mark.slow
def test_single_runs_and_other_samples(lamella: Lamella) -> None:
    """One run a row says nothing of the seeds, and rows that were judged by other samples have no mark."""
    line = ("train", "-m", "optimizer.lr=1e-2,9e-3", "trainer.max_epochs=1", *SHORT)
    assert lamella(*line).status == 0
    note = "* cannot be told from the best: 95 % interval over 144 samples only; how results vary with the seed is not"
    assert note in lamella("runs", str(SWEEP)).out
    assert lamella(*line, "data.val_size=0.2").status == 0
    rows = leaderboard()
    assert len(rows) == 4
    assert sum(row["tied"] is None for row in rows) == 2
