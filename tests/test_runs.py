"""`lamella runs` and `lamella compare`: many runs side by side."""

import csv
import io
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import yaml
from conftest import Lamella
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from programs import Program, wait_until
from rich.cells import cell_len

import lamella as package
from lamella.errors import RequestError
from lamella.runs.listing import Record, Runs
from lamella.runs.schema import RunRecord

SWEPT = {"1e-1": 2, "1e-2": 1, "1e-3": 3}  # learning rate: epochs


@pytest.fixture
def three(lamella: Lamella, trained: Path) -> Path:
    """Three runs as a sweep leaves them, made from one that was trained."""
    for number, (lr, epochs) in enumerate(SWEPT.items()):
        path = Path("outputs/tuned") / f"optimizer.lr={lr}"
        shutil.copytree(trained, path)
        fields = json.loads((path / "run.json").read_text())
        metrics = {name: value + 0.01 * number for name, value in fields["metrics"].items()}
        fields |= {"name": "tuned", "overrides": [f"optimizer.lr={lr}"], "epochs": epochs, "metrics": metrics}
        fields |= {"started": f"2026-01-0{number + 1}T00:00:00+00:00", "seconds": 10.0 ** (2 * number)}
        fields["status"] = ("finished", "failed", "finished")[number]
        (path / "run.json").write_text(json.dumps(fields))
        config = (path / "config.yaml").read_text().replace("lr: 0.001", f"lr: {float(lr)}")
        (path / "config.yaml").write_text(config.replace("width: 128", f"width: {2**number}"))
    return Path("outputs/tuned")


def column(text: str, name: str) -> list[str]:
    return [row[name] for row in csv.DictReader(io.StringIO(text))]


def test_the_table(lamella: Lamella, three: Path) -> None:
    result = lamella("runs")
    assert result.status == 0, result.err
    head, *rows = result.out.splitlines()
    shown = "name overrides status best_epoch val/loss val/accuracy test/loss test/accuracy seconds age directory"
    assert head.split() == shown.split(" ")
    assert [row.split()[:4] for row in rows] == [
        ["tuned", "optimizer.lr=1e-1", "finished", "2"],
        ["tuned", "optimizer.lr=1e-2", "failed", "2"],
        ["tuned", "optimizer.lr=1e-3", "finished", "2"],
    ]
    assert [row.split()[-1] for row in rows] == [f"outputs/tuned/optimizer.lr={lr}" for lr in SWEPT]
    assert [word in row for row, word in zip(rows, (" 1.0 s ", " 1.7 min ", " 2.8 h "), strict=True)] == [True] * 3


@pytest.mark.parametrize(
    ("condition", "kept"),
    {
        "optimizer.lr<1e-2 and status=finished": ["1e-3"],
        "optimizer.lr<=1e-2": ["1e-2", "1e-3"],
        "status!=finished": ["1e-2"],
        "optimizer.lr = 0.1 or optimizer.lr=0.001": ["1e-1", "1e-3"],
        "network.width>1 and network.width<4": ["1e-2"],  # not in the overrides
        "network=mlp": ["1e-1", "1e-2", "1e-3"],
        "data.shape=[1,28,28] and data.shape=[1, 28, 28] and epochs>=2": ["1e-1", "1e-3"],
        "trainer.gradient_clip_val=null and optimizer.fused=true": ["1e-1", "1e-2", "1e-3"],
        "status='failed'": ["1e-2"],
        "git.commit=null and environment.threads=1 and name='tuned'": ["1e-1", "1e-2", "1e-3"],
        "name='a and b'": [],
        "network.layers.0=Flatten": ["1e-1", "1e-2", "1e-3"],
    }.items(),
)
def test_filters(lamella: Lamella, three: Path, condition: str, kept: list[str]) -> None:
    result = lamella("runs", "--filter", condition, "--csv", "--columns", "overrides")
    assert result.status == 0, result.err
    assert column(result.out, "overrides") == [f"['optimizer.lr={lr}']" for lr in kept]
    assert kept or lamella("runs", "--filter", condition).out == "no runs in outputs meet the condition\n"


@pytest.mark.parametrize(
    ("sort", "order"),
    {
        "val/accuracy": ["1e-3", "1e-2", "1e-1"],  # the best first
        "val/loss": ["1e-1", "1e-2", "1e-3"],
        "optimizer.lr": ["1e-3", "1e-2", "1e-1"],
        "epochs": ["1e-2", "1e-1", "1e-3"],
        "status": ["1e-2", "1e-1", "1e-3"],
        "age": ["1e-3", "1e-2", "1e-1"],
        "network.width": ["1e-1", "1e-2", "1e-3"],
    }.items(),
)
def test_sorts(lamella: Lamella, three: Path, sort: str, order: list[str]) -> None:
    csv_of_rates = ("--csv", "--columns", "optimizer.lr")
    rates = column(lamella("runs", "--sort", sort, *csv_of_rates).out, "optimizer.lr")
    assert [float(rate) for rate in rates] == [float(lr) for lr in order]
    if sort != "status":
        backwards = column(lamella("runs", "--sort", sort, "--reverse", *csv_of_rates).out, "optimizer.lr")
        assert backwards == rates[::-1]


def test_for_programs(lamella: Lamella, three: Path) -> None:
    records = json.loads(lamella("runs", str(three), "--json").out)
    assert [record["overrides"] for record in records] == [[f"optimizer.lr={lr}"] for lr in SWEPT]
    assert records[0]["metrics"]["val/loss"] > 0
    rows = list(csv.DictReader(io.StringIO(lamella("runs", "--csv").out)))
    assert [float(row["optimizer.lr"]) for row in rows] == [0.1, 0.01, 0.001]
    assert {"directory", "status", "val/loss", "test/accuracy", "seed"} <= set(rows[0])
    [first, *_] = json.loads(lamella("runs", "--json", "--columns", "network.width,test/loss").out)
    assert first == {"network.width": 1, "test/loss": records[0]["metrics"]["test/loss"]}


def test_a_key_that_only_others_have(lamella: Lamella, three: Path) -> None:
    fields = json.loads((three / "optimizer.lr=1e-2/run.json").read_text())
    (three / "optimizer.lr=1e-2/run.json").write_text(json.dumps(fields | {"metrics": {}, "overrides": []}))
    one = ("--filter", "status=failed", "--columns", "name,val/accuracy", "--sort", "val/accuracy")
    assert lamella("runs", *one).out.splitlines()[1].split() == ["tuned", "-"]
    assert package.runs().frame()["optimizer.lr"].tolist() == [0.1, 0.01, 0.001]  # of the config, where not overridden


def test_from_python(three: Path) -> None:
    runs = package.runs()
    assert [record["optimizer.lr"] for record in runs] == [0.1, 0.01, 0.001]
    best = runs.where("status=finished").by("val/accuracy")[0]
    assert (best.path, best["network.width"]) == (three / "optimizer.lr=1e-3", 4)
    frame = runs.frame()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["val/loss"].tolist() == [record["val/loss"] for record in runs]
    with pytest.raises(KeyError, match=r"network\.depht"):
        best["network.depht"]


@pytest.mark.slow
def test_a_process_that_died_shows_as_interrupted(lamella: Lamella) -> None:
    training = Program(Path(), "train", "trainer.max_epochs=100000")
    wait_until(lambda: training.out.startswith("Using cpu device\n"), 60, training)
    assert column(lamella("runs", "--csv").out, "status") == ["running"]
    training.kill()
    training.wait()
    [path] = Path("outputs/default").iterdir()
    assert json.loads((path / "run.json").read_text())["status"] == "running"
    assert column(lamella("runs", "--csv").out, "status") == ["interrupted"]


def test_what_is_damaged_is_left_out_and_said(lamella: Lamella, three: Path) -> None:
    (three / "optimizer.lr=1e-2/run.json").write_text("{")
    result = lamella("runs")
    assert result.status == 0
    assert len(result.out.splitlines()) == 3
    assert result.err.startswith(
        "left out: outputs/tuned/optimizer.lr=1e-2 is not a run directory: its run.json is damaged"
    )
    with pytest.warns(UserWarning, match=r"its run\.json is damaged"):
        assert len(package.runs()) == 2


REFUSED = {
    ("nowhere",): "error: nowhere is not a directory; `lamella train` makes outputs/",
    ("--filter", "optimizer.lrr<1"): "error: no run has a key 'optimizer.lrr'; did you mean optimizer.lr",
    ("--filter", "epochs"): "error: epochs is not a condition; write KEY, one of < <= = != >= > ~ in, and a value",
    ("--limit", "0"): "error: lamella runs: --limit is 0; it takes a number of runs from 1 on",
    ("--group-by", "optimizer.l"): "error: no run has a key 'optimizer.l'; did you mean optimizer.lr",
    ("--group-by", "seed", "--columns", "name"): "error: name: there is no mean of it, because no run has a number",
    ("--sort", "val/acuracy"): "error: no run has a key 'val/acuracy'; did you mean val/accuracy",
    ("--columns", "statu"): "error: no run has a key 'statu'; did you mean status",
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_wrong_requests(lamella: Lamella, three: Path, arguments: tuple[str, ...]) -> None:
    result = lamella("runs", *arguments)
    assert result.status == 2
    assert result.err.startswith(REFUSED[arguments])


def test_the_newest_runs_and_the_best(lamella: Lamella, three: Path) -> None:
    rates = ("--csv", "--columns", "optimizer.lr")
    assert column(lamella("runs", "--limit", "2", *rates).out, "optimizer.lr") == ["0.01", "0.001"]
    assert column(lamella("runs", "--limit", "1", "--reverse", *rates).out, "optimizer.lr") == ["0.001"]
    one = ("--limit", "1", "--sort", "val/loss", "--filter", "optimizer.lr<0.1")
    assert column(lamella("runs", *one, *rates).out, "optimizer.lr") == ["0.01"]


def test_means_over_groups(lamella: Lamella, three: Path) -> None:
    fields = json.loads((three / "optimizer.lr=1e-1/run.json").read_text())
    del fields["metrics"]["test/loss"]
    (three / "optimizer.lr=1e-1/run.json").write_text(json.dumps(fields))
    loss = fields["metrics"]["val/loss"]
    lines = lamella("runs", "--group-by", "status", "--columns", "val/loss,test/loss").out.splitlines()
    assert lines[0].split() == ["status", "n", "val/loss", "test/loss"]
    assert lines[1].split()[:3] == ["failed", "1", f"{loss + 0.01:.4f}"]
    assert lines[2].split()[:5] == ["finished", "2", f"{loss + 0.01:.4f}", "±", f"{0.02 / math.sqrt(2):.4f}"]
    assert lines[2].endswith("(n=1)")
    rows = json.loads(lamella("runs", "--group-by", "network,network.width", "--sort", "val/accuracy", "--json").out)
    assert [(row["network"], row["network.width"], row["n"]) for row in rows] == [
        ("mlp", width, 1) for width in (4, 2, 1)
    ]
    assert rows[0]["val/accuracy std"] is None
    table = lamella("runs", "--group-by", "network", "--csv", "--sort", "seconds").out
    assert float(column(table, "seconds")[0]) == pytest.approx((1 + 100 + 10000) / 3)
    assert (
        lamella("runs", "--group-by", "network.width", "--limit", "2", "--reverse").out.split("\n")[1].startswith("4")
    )
    # The run without a test has no mean, and is last in both directions.
    for order in ((), ("--reverse",)):
        columns = ("--columns", "test/loss", "--sort", "test/loss", *order)
        last = lamella("runs", "--group-by", "optimizer.lr", *columns).out.splitlines()[-1]
        assert last.split()[0] == "0.1"


def test_no_runs(lamella: Lamella) -> None:
    Path("outputs").mkdir()
    assert lamella("runs").out == "no runs in outputs\n"
    assert len(package.runs().frame()) == 0


def record(number: int, loss: Any) -> Record:
    fields: RunRecord = {
        "name": "", "overrides": [], "seed": number, "device": "cpu", "images": True, "metric": "accuracy",
        "reads": {}, "choices": {}, "format": 1, "status": "finished", "epochs": 1, "steps": 1, "seconds": 1.0,
        "started": "", "metrics": {} if loss is None else {"val/loss": loss, "val/accuracy": loss}, "best_epoch": 1,
        "versions": {}, "git": None,
    }  # fmt: skip
    return Record(Path(str(number)), fields)


losses = st.none() | st.floats(allow_nan=True, allow_infinity=True)


@given(st.lists(losses), st.floats(allow_nan=False, allow_infinity=False))
def test_filters_are_comparisons(values: list[Any], limit: float) -> None:
    runs = Runs(record(number, value) for number, value in enumerate(values))
    for sign in ("<", "<=", ">", ">=", "="):
        try:
            kept = {one["seed"] for one in runs.where(f"val/loss{sign}{limit!r}")}
        except RequestError:
            assert all(value is None for value in values)
            continue
        meets = {"<": lambda x: x < limit, "<=": lambda x: x <= limit, ">": lambda x: x > limit}
        meets |= {">=": lambda x: x >= limit, "=": lambda x: x == limit}
        assert kept == {n for n, value in enumerate(values) if value is not None and meets[sign](value)}


@given(st.lists(losses))
def test_sorting_keeps_every_run_and_puts_the_best_first(values: list[Any]) -> None:
    runs = Runs(record(number, value) for number, value in enumerate(values))
    if all(value is None for value in values):
        return
    for metric in ("val/loss", "val/accuracy"):
        for backwards in (False, True):
            ordered = [one.get(metric) for one in runs.by(metric, backwards)]
            numbers = [value for value in ordered if value is not None and math.isfinite(value)]
            assert ordered[: len(numbers)] == numbers
            assert numbers == sorted(numbers, reverse=backwards != (metric == "val/accuracy"))
            assert len(ordered) == len(values)


@pytest.mark.parametrize("width", [60, 80, 100, 200])
@pytest.mark.parametrize("line", [("runs",), ("runs", "outputs/tuned"), ("compare", "outputs/tuned/*")])
def test_tables_fit_the_terminal(
    lamella: Lamella, three: Path, monkeypatch: pytest.MonkeyPatch, width: int, line: tuple[str, ...]
) -> None:
    long = three / "a-directory-with-a-name-that-is-far-too-long-for-any-table-and-goes-on-and-on-運動運動運動運動-end"
    (three / "optimizer.lr=1e-2").rename(long)
    monkeypatch.setenv("COLUMNS", str(width))
    result = lamella(
        *(text for part in line for text in (map(str, sorted(three.iterdir())) if "*" in part else [part]))
    )
    assert result.status == 0, result.err
    assert all(cell_len(text) <= width for text in result.out.splitlines())
    assert "out" in result.out
    assert "-end" in result.out  # a path keeps its end
    if line == ("runs",):
        shown = result.out.splitlines()[0].split()
        assert {"directory", "test/accuracy"} <= set(shown)
        assert ("(not shown: " in result.out) == (width < 200)


def test_rows_of_a_narrow_table_are_told_apart(lamella: Lamella, three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in sorted(three.iterdir()):
        path.rename(three / f"{path.name},network=linear,trainer.max_epochs=2")  # the same end
    monkeypatch.setenv("COLUMNS", "80")
    rows = lamella("runs").out.splitlines()[1:4]
    assert len({row.split()[-1] for row in rows}) == 3


def test_a_reproduction_is_marked(lamella: Lamella, three: Path) -> None:
    path = three / "optimizer.lr=1e-3"
    fields = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps(fields | {"reproduces": "outputs/tuned/optimizer.lr=1e-1"}))
    rows = lamella("runs").out.splitlines()
    assert ["finished (reproduction)" in row for row in rows] == [False, False, False, True]


def test_compare_passes_over_what_is_no_run(lamella: Lamella, three: Path) -> None:
    (three / "notes").mkdir()
    (three / "leaderboard.csv").touch()
    paths = [str(path) for path in sorted(three.iterdir())]
    result = lamella("compare", *paths)
    assert result.status == 0, result.err
    assert result.err.splitlines() == [
        "left out: outputs/tuned/leaderboard.csv is no run directory",
        "left out: outputs/tuned/notes is no run directory",
    ]
    assert result.out.startswith("A  outputs/tuned/optimizer.lr=1e-1\n")
    assert lamella("compare", *paths, "outputs/tuned/typo").status == 2
    for number in range(4):
        (three / f"picture{number}.png").touch()
    result = lamella("compare", *(str(path) for path in sorted(three.iterdir())))
    assert result.status == 0
    assert result.err == "left out: 6 paths, such as outputs/tuned/leaderboard.csv, which is no run directory\n"


def test_compare_lists_a_change_once(lamella: Lamella, three: Path) -> None:
    one, other = three / "optimizer.lr=1e-1", three / "optimizer.lr=1e-2"
    for path, names in ((one, ["a", "b"]), (other, ["c", "d"])):
        config = yaml.safe_load((path / "config.yaml").read_text())
        config["data"]["classes"] = config["data"]["source"]["classes"] = names
        (path / "config.yaml").write_text(yaml.safe_dump(config))
        fields = json.loads((path / "run.json").read_text())
        fields["reads"]["data.source.classes"] = "data.classes"
        (path / "run.json").write_text(json.dumps(fields))
    lines = [line for line in lamella("compare", str(one), str(other)).out.splitlines() if "classes" in line]
    assert [line.split()[0] for line in lines] == ["data.classes"]


def test_compare_shows_what_differs_alone(lamella: Lamella, three: Path) -> None:
    result = lamella("compare", *(str(three / f"optimizer.lr={lr}") for lr in SWEPT))
    assert result.status == 0, result.err
    assert result.out.splitlines()[:5] == [
        "A  outputs/tuned/optimizer.lr=1e-1",
        "B  outputs/tuned/optimizer.lr=1e-2  failed",
        "C  outputs/tuned/optimizer.lr=1e-3",
        "",
        "config         A    B     C",
    ]
    assert [line.split() for line in result.out.splitlines()[5:7]] == [
        ["network.width", "1", "2", "4"],  # and not the layers that read it
        ["optimizer.lr", "0.1", "0.01", "0.001"],
    ]
    assert "versions: the same\n\nmachine: the same\n\ngit: the same\n\nresults" in result.out
    [row] = [line.split() for line in result.out.splitlines() if line.startswith("val/loss")]
    first = json.loads((three / "optimizer.lr=1e-1/run.json").read_text())["metrics"]["val/loss"]
    assert row == ["val/loss", f"{first:.4f}", f"{first + 0.01:.4f}", "(+0.0100)", f"{first + 0.02:.4f}", "(+0.0200)"]
    assert "test_size" not in result.out


def test_compare_shows_versions_and_patches(lamella: Lamella, three: Path) -> None:
    one, other = three / "optimizer.lr=1e-1", three / "optimizer.lr=1e-2"
    fields = json.loads((other / "run.json").read_text())
    fields["versions"]["torch"], fields["git"] = "1.0", {"commit": "abc", "dirty": True}
    (other / "run.json").write_text(json.dumps(fields))
    (one / "git.patch").write_text("+width = 3\n same\n")
    (other / "git.patch").write_text("+width = 4\n same\n")
    out = lamella("compare", str(one), str(other)).out
    assert "\nversions  A " in out
    assert "\ncommit  -  abc\n" in out
    assert "uncommitted changes, A against B\n--- A/git.patch\n+++ B/git.patch\n" in out
    assert "\n-+width = 3\n++width = 4\n" in out


def test_compare_finds_the_same(lamella: Lamella, three: Path) -> None:
    path = str(three / "optimizer.lr=1e-1")
    out = lamella("compare", path, path).out
    titles = ("config", "versions", "machine", "git", "results")
    assert out.endswith("".join(f"\n\n{title}: the same" for title in titles) + "\n")


@pytest.mark.slow
def test_curves_are_drawn(lamella: Lamella, three: Path) -> None:
    runs = [str(three / f"optimizer.lr={lr}") for lr in SWEPT]
    result = lamella("compare", *runs, "--plot", "curves.png")
    assert result.status == 0, result.err
    with Image.open("curves.png") as image:
        colours = {tuple(pixel) for row in np.asarray(image.convert("RGB")).tolist() for pixel in row}
    assert {(31, 119, 180), (255, 127, 14), (44, 160, 44)} <= colours  # a line for each run
    wrong = lamella("compare", *runs, "--plot", "curves.doc")
    assert (wrong.status, "error: --plot curves.doc: the name has to end in a known format: " in wrong.err) == (2, True)
    for run in runs:
        Path(run, "metrics.jsonl").unlink()
    empty = lamella("compare", *runs, "--plot", "curves.png")
    assert (empty.status, empty.err) == (2, "error: --plot: none of the runs has finished an epoch\n")


def test_compare_takes_two(lamella: Lamella, run: Path) -> None:
    result = lamella("compare", str(run))
    assert (result.status, result.err) == (2, "error: compare takes two runs or more\n")
