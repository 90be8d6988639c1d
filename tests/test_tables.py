"""Tables and series: what is read, what the network gets, what a run keeps of it, and which mistakes are refused."""

import csv as csv_module
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Lamella
from torch import Tensor

import lamella as package
from lamella.data import Batches, Data, Samples, TableEncoder, bundled_table, csv, series, waves
from lamella.data.sampler import class_weights
from lamella.errors import RequestError

FAST = ("trainer.max_epochs=2", "device.threads=1")
PLANTS = "length,colour,code,species\n" + "".join(
    f"{number % 7 + 0.5},{('red', 'blue', 'green')[number % 3]},{number % 2},{('iris', 'rose')[number % 2]}\n"
    for number in range(40)
)


def write(name: str, text: str | bytes) -> str:
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return name


def trained(lamella: Lamella, *arguments: str) -> Path:
    result = lamella("train", *arguments, "name=table")
    assert result.status == 0, result.err
    return max(Path("outputs/table").iterdir(), key=lambda path: path.stat().st_mtime)


def arrays(samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    assert isinstance(samples.inputs, Tensor)
    return samples.inputs.numpy(), samples.targets.numpy()


def data_of(source: object, count: int, **options: object) -> Data:
    options = {"test_size": 0.2, **options}
    return Data(source, None, 16, count, **options)  # type: ignore[arg-type]


# What the network gets


def test_columns_become_features_by_what_the_training_samples_hold(tmp_path: Path) -> None:
    path = write(str(tmp_path / "x.csv"), PLANTS.replace("1.5,", ",").replace("red,0", ",0"))
    data = data_of(csv(path, "species", classes=["iris", "rose"], text=["code"]), 2)
    assert data.encoder is not None
    columns = data.encoder.state()["columns"]
    assert isinstance(columns, Mapping)
    assert list(columns) == ["length", "colour", "code"]
    assert columns["colour"] == ["blue", "green", "red"]
    assert columns["code"] == ["0", "1"]
    inputs, targets = arrays(data.train)
    assert data.shape == (6,)
    assert inputs[:, 0].mean() == pytest.approx(0, abs=1e-6)
    assert set(np.unique(inputs[:, 1:])) == {0.0, 1.0}
    assert set(inputs[:, 1:4].sum(1)) == {0.0, 1.0}  # a missing colour is no category
    assert (inputs[:, 5] == targets).all()  # the code is the class
    assert [note for note in data.notes() if "length" in note] == [
        "the column length: 6 of 40 cells are empty, and get the mean of the training samples"
    ]


def test_means_and_categories_come_from_the_training_samples_alone(tmp_path: Path) -> None:
    rows = [f"{number},{'rare' if number == 7 else 'usual'},{number % 2}" for number in range(30)]
    path = write(str(tmp_path / "x.csv"), "\n".join(["size,kind,y", *rows]))
    for seed in range(8):
        data = data_of(csv(path, "y", classes=["0", "1"]), 2, split_seed=seed)
        inputs, _ = arrays(data.train)
        assert data.encoder is not None
        columns: Any = data.encoder.state()["columns"]
        assert inputs[:, 0].mean() == pytest.approx(0, abs=1e-6)
        assert inputs[:, 0].std() == pytest.approx(1, abs=1e-5)
        sizes = inputs[:, 0] * columns["size"]["sd"] + columns["size"]["mean"]
        assert ("rare" in columns["kind"]) == (np.abs(sizes - 7).min() < 1e-3)


@pytest.mark.parametrize(
    "text",
    [
        "a;b;y\n1;x;u\n2;y;v\n3;x;u\n4;y;v\n5;y;v\n6;y;v\n",
        "\ufeffa\tb\ty\r\n1\tx\tu\r\n\r\n2\ty\tv\r\n3\tx\tu\r\n4\ty\tv\r\n5\ty\tv\r\n6\ty\tv\r\n",
        'a, b, y, \n1, "x", u,0\n2, y, v,1\n3, x, u,2\n4, y, v,3\n5,y,v,4\n6,y,v,5\n',
    ],
    ids=["semicolons", "tabs and a byte-order mark", "spaces, quotes and a column without a name"],
)
def test_the_form_of_the_file_makes_no_difference(tmp_path: Path, text: str) -> None:
    source = csv(write(str(tmp_path / "x.csv"), text), "y", classes=["u", "v"])
    assert source.encoder is not None
    assert source.encoder.state()["columns"] == {"a": {"mean": 0.0, "sd": 1.0}, "b": ["x", "y"]}
    assert source.train.targets.tolist() == [0, 1, 0, 1, 1, 1]
    assert list(source.notes) == ["columns without a name are left out"] * text.startswith("a, b")


def test_an_encoder_comes_back_from_its_state(tmp_path: Path) -> None:
    data = data_of(csv(write(str(tmp_path / "x.csv"), PLANTS), "species", classes=["iris", "rose"]), 2)
    assert isinstance(data.encoder, TableEncoder)
    state = json.loads(json.dumps(data.encoder.state()))
    assert state.pop("_target_") == "lamella.data.TableEncoder"
    again = TableEncoder(**state)
    new = write(str(tmp_path / "new.csv"), "colour,length,code,species,\npink,3.5,1,?,9\nred,,0,,8\n")
    names, inputs = again.read(new)
    assert names == [f"{new}:2", f"{new}:3"]
    assert torch.equal(inputs, data.encoder.read(new)[1])
    assert inputs[0, 1:4].tolist() == [0, 0, 0]
    assert inputs[1, :4].tolist() == [0, 0, 0, 1]


def test_windows_do_not_cross_the_splits(tmp_path: Path) -> None:
    text = "day,x,y\n" + "".join(f"d{number},{number},{number * 10}\n" for number in range(100))
    source = series(
        write(str(tmp_path / "x.csv"), text), "y", 5, 2, drop=["day"], standardize_target=False, test_size=0.2
    )
    data = data_of(source, 2)
    assert data.shape == (5, 2)
    assert data.encoder is not None
    ends = []
    for samples in data.splits.values():
        columns: Any = data.encoder.state()["columns"]
        inputs, targets = arrays(samples)
        rows = inputs[:, :, 0] * columns["x"]["sd"] + columns["x"]["mean"]
        assert targets[:, 0] == pytest.approx(10 * rows[:, -1] + 10, abs=1e-2)
        assert np.diff(rows, axis=1) == pytest.approx(1, abs=1e-4)
        ends.append((round(float(rows[0, 0])), round(float(targets[-1, -1])) // 10))
    assert ends == [(0, 69), (70, 79), (80, 99)]
    assert columns["x"]["mean"] == pytest.approx(np.arange(68).mean())  # the rows that are in windows of the training


# What a run keeps


@pytest.fixture
def plants(lamella: Lamella) -> Path:
    """A run on a CSV file of plants."""
    return trained(lamella, "data=csv", f"data.path={write('plants.csv', PLANTS)}", "data.target=species", *FAST)


def test_a_run_needs_no_data_to_predict(lamella: Lamella, plants: Path) -> None:
    expected = package.load(plants).predict(["plants.csv"])
    Path("plants.csv").rename("new.csv")
    assert "shape:\n  - 5\n" in (plants / "config.yaml").read_text()
    result = lamella("predict", str(plants), "new.csv", "--out", "out.csv")
    assert result.status == 0, result.err
    assert result.out.splitlines()[0].split() == ["row", "class", "probability", "2."]
    assert "rows: 40; all in out.csv" in result.out
    with Path("out.csv").open() as file:
        rows = list(csv_module.DictReader(file))
    assert [row["row"] for row in rows] == [f"new.csv:{number}" for number in range(2, 42)]
    assert [float(row["rose"]) for row in rows] == pytest.approx(expected[:, 1].tolist())
    for out in ("out.json", "out.jsonl"):
        assert lamella("predict", str(plants), "new.csv", "--out", out).status == 0
    [first, *_] = json.loads(Path("out.json").read_text())
    assert first == json.loads(Path("out.jsonl").read_text().splitlines()[0])
    assert first["probabilities"] == pytest.approx({"iris": float(rows[0]["iris"]), "rose": float(rows[0]["rose"])})


def test_eval_and_reproduce_read_the_file_where_it_is(lamella: Lamella, plants: Path) -> None:
    recorded = json.loads((plants / "run.json").read_text())["metrics"]
    result = lamella("eval", str(plants))
    assert result.status == 0, result.err
    assert f"loss {recorded['test/loss']:.4f}" in result.out
    Path("plants.csv").rename("moved.csv")
    assert lamella("eval", str(plants)).status == 2
    assert lamella("eval", str(plants), "data.path=moved.csv").status == 0
    result = lamella("reproduce", str(plants), "data.path=moved.csv")
    assert result.status == 0, result.err + result.out
    # Other rows are encoded as those of the training were.
    other = PLANTS.replace("red", "pink").replace("0.5,", "1000,")
    write("other.csv", other)
    assert lamella("eval", str(plants), "data.path=other.csv", "data.test_size=30").status == 0
    result = lamella("eval", str(plants), "data.path=" + write("less.csv", PLANTS.replace("length", "long")))
    assert (result.status, "the column length of the training is missing" in result.err) == (2, True)
    result = lamella("resume", str(plants), "data.path=other.csv", "trainer.max_epochs=3")
    assert result.status == 2, result.out


@pytest.mark.slow(seconds=4)
def test_a_large_table_goes_on_with_another_number_of_threads(lamella: Lamella) -> None:
    numbers = np.random.default_rng(0).normal(size=70_000)  # of which two threads compute another sd in the last digit
    write(
        "large.csv", "a,kind\n" + "".join(f"{value!r},{'pq'[row % 2]}\n" for row, value in enumerate(numbers.tolist()))
    )
    options = ("data=csv", "data.path=large.csv", "data.target=kind", "trainer.max_epochs=1", "device.threads=1")
    run = trained(lamella, *options, "visuals=none", "+trainer.limit_train_batches=2", "+trainer.limit_val_batches=1")
    learned = (run / "preprocessing.json").read_bytes()
    result = lamella("resume", str(run), "trainer.max_epochs=2", "device.threads=2")
    assert result.status == 0, result.err
    assert (run / "preprocessing.json").read_bytes() == learned


def test_an_encoder_that_a_config_may_not_build_is_refused(lamella: Lamella, plants: Path) -> None:
    file = plants / "preprocessing.json"
    state = json.loads(file.read_text())
    for changed, message in (
        ({**state, "_target_": "os.system"}, "may build from"),
        ({**state, "_target_": "lamella.data.csv"}, "it takes a class, a Encoder"),
        ({**state, "columns": {"length": {"mean": "x", "sd": 1}}}, "is damaged"),
        ({**state, "more": 1}, "has no such argument"),
        ([], "it holds no mapping"),
    ):
        file.write_text(json.dumps(changed))
        result = lamella("predict", str(plants), "plants.csv")
        assert (result.status, message in result.err) == (2, True), result.err


@pytest.mark.slow
def test_a_sweep_of_tables_is_fused(lamella: Lamella) -> None:
    path = write("plants.csv", PLANTS)
    given = ["data=csv", f"data.path={path}", "data.target=species", "network.norm=null", *FAST]
    result = lamella("train", "-m", *given, "name=s", "seed=0,1", "hydra/launcher=fused", "hydra.launcher.slots=1")
    assert result.status == 0, result.err
    for run in Path("outputs/s").glob("*/seed=*"):
        assert json.loads((run / "run.json").read_text())["inexact"]
        assert package.load(run).predict([path]).shape == (40, 2)


def test_numbers_are_predicted_in_their_own_unit(lamella: Lamella) -> None:
    text = "a,b,price,weight\n" + "".join(f"{n % 9},{n % 5},{1000 + n},{n / 1000}\n" for n in range(60))
    options = ["data=csv", f"data.path={write('x.csv', text)}", "data.target=[price,weight]", "data.kind=numbers"]
    options += ["loss=mse", "monitor=val/loss", "data.standardize_target=true", *FAST]
    run = trained(lamella, *options)
    predicted = package.load(run).predict(["x.csv"])
    assert predicted.shape == (60, 2)
    assert predicted.mean(0).tolist() == pytest.approx([1030, 0.03], rel=0.5)
    result = lamella("predict", str(run), "x.csv", "--out", "out.csv")
    assert result.out.splitlines()[0].split() == ["row", "price", "weight"]
    assert Path("out.csv").read_text().startswith("row,price,weight\nx.csv:2,1")
    assert lamella("predict", str(run), "x.csv", "--out", "out.json").status == 0
    first = json.loads(Path("out.json").read_text())[0]
    assert first["prediction"] == pytest.approx(dict(zip(("price", "weight"), predicted[0].tolist(), strict=True)))


def test_labels_are_several_columns(lamella: Lamella) -> None:
    text = "a,b,big,odd\n" + "".join(f"{n % 9},{n % 2},{int(n % 9 > 4)},{n % 2}\n" for n in range(60))
    options = ["data=csv", f"data.path={write('x.csv', text)}", "data.target=[big,odd]", "data.kind=labels"]
    run = trained(lamella, *options, "loss=bce_with_logits", *FAST)
    assert package.load(run).classes == ["big", "odd"]
    assert lamella("predict", str(run), "x.csv").status == 0


def test_a_forecast_follows_the_last_rows_of_a_file(lamella: Lamella) -> None:
    text = "t,load\n" + "".join(f"d{n},{100 + n % 6}\n" for n in range(150))
    options = [
        "data=series",
        f"data.path={write('x.csv', text)}",
        "data.target=load",
        "data.window=6",
        "data.horizon=2",
    ]
    run = trained(lamella, *options, "data.drop=[t]", "loss=mse", "monitor=val/loss", *FAST)
    result = lamella("predict", str(run), "x.csv", "--out", "out.csv")
    assert result.status == 0, result.err
    assert Path("out.csv").read_text().startswith("file,load +1,load +2\nx.csv,10")
    write("short.csv", "load\n1\n2\n")
    assert "it has 2 rows, but a prediction takes 6" in lamella("predict", str(run), "short.csv").err


# The sampler


def plain(batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    for inputs, targets in batches:
        assert isinstance(inputs, Tensor)
        yield inputs, targets


def test_the_balanced_sampler_draws_classes_equally_often() -> None:
    targets = torch.tensor([0] * 900 + [1] * 100)
    samples = Samples(torch.arange(1000.0)[:, None], targets)
    weights = class_weights("balanced", targets, 2)
    epoch = [0]
    batches = Batches(samples, 100, shuffle=True, seed=3, epoch=lambda: epoch[0], weights=weights)
    drawn = []
    for number in (0, 1, 0):
        epoch[0] = number
        drawn.append(torch.cat([inputs[:, 0] for inputs, _ in plain(batches)]))
    assert len(drawn[0]) == 1000
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])
    assert (drawn[0] >= 900).float().mean() == pytest.approx(0.5, abs=0.06)
    never = class_weights([0.0, 2.0], targets, 2)
    assert min(float(inputs.min()) for inputs, _ in plain(Batches(samples, 100, shuffle=True, weights=never))) >= 900


def test_no_validation_sample_is_drawn_for_the_training() -> None:
    data = data_of(bundled_table("breast_cancer", ["malignant", "benign"], {"malignant": 0.2}), 2, sampler="balanced")
    held_back = {row.numpy().tobytes() for name in ("val", "test") for row in data.splits[name].inputs}  # type: ignore[union-attr]
    drawn = [row.numpy().tobytes() for inputs, _ in plain(data.train_dataloader()) for row in inputs]
    assert len(drawn) == len(data.train) > len(set(drawn))
    assert not held_back & set(drawn)


@pytest.mark.parametrize(
    ("sampler", "message"),
    [("fair", "it takes balanced, null, or a list"), ([1.0], "for each of the 2 classes"), ([1, -1], "2 classes")],
)
def test_a_sampler_that_is_none_is_refused(sampler: object, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        data_of(bundled_table("breast_cancer", ["malignant", "benign"]), 2, sampler=sampler)


def test_a_sampler_of_numbers_is_refused() -> None:
    with pytest.raises(RequestError, match="the targets of these samples are none"):
        data_of(bundled_table("diabetes"), 1, sampler="balanced")


# Mistakes

MISTAKES: list[tuple[str | bytes, str, list[str]]] = [
    ("a,b,y\n1,2,u\n", "data.target=z", ["data.target", "'z'", "x.csv has no such column", "known: a, b, y"]),
    (
        PLANTS.replace("\n5.5,", "\n5.5 cm,", 1),
        "data.target=species",
        ["x.csv: row 7, column length: '5.5 cm' is no number"],
    ),
    ("", "data.target=y", ["x.csv: the file is empty"]),
    ("a,y\n", "data.target=y", ["the file has no rows"]),
    ("a,y\n1,u\n2,u\n", "data.target=y", ["this column has the one value 'u', where classes take two or more"]),
    ("a,y\n1,u\n2,v\n3,\n4,u\n", "data.target=y", ["x.csv: row 4, column y: the cell is empty"]),
    ("a,a,y\n1,2,u\n2,3,v\n", "data.target=y", ["two columns have the name 'a'"]),
    ("a,y\n1,u\n", "data.target=y data.path=y.csv", ["y.csv: this file cannot be read (No such file or directory)"]),
    ("a,y\n1,caf\u00e9\n".encode("latin1"), "data.target=y", ["x.csv: line 2 is not in UTF-8", "iconv -f latin1"]),
    ("a,y\n1,u\n".encode("utf-16"), "data.target=y", ["x.csv: this is no text file; it takes CSV, in UTF-8 and not "]),
    ("a y\n1 u\n2 v\n", "data.target=y", ["x.csv has no such column; known: a y"]),
    ("a,y\n1,u\n2,v,3\n", "data.target=y", ["x.csv: row 3 has 3 cells, but the first row names 2 columns"]),
    (PLANTS, "data.target=species data.kind=numbers", ["row 2, column species: 'iris' is no number"]),
    (
        PLANTS,
        "data.target=[length] data.kind=labels",
        ["data.kind is labels, but row 2", "has 0.5", "labels are 0 or 1"],
    ),
    (PLANTS, "data.target=length data.kind=number", ["data.kind is 'number'; did you mean numbers?"]),
    (PLANTS, "data.target=[species,code]", ["classes take one column"]),
    (
        PLANTS,
        "data.target=length data.kind=numbers monitor=val/loss",
        ["takes classes, but the targets are numbers", "loss=mse"],
    ),
    (PLANTS, "data.target=species data.drop=[color]", ["data.drop names 'color'", "did you mean colour?"]),
    (PLANTS, "data.target=species data.columns=[size]", ["data.columns names 'size'"]),
    (PLANTS, "data.target=species data.standardize_target=true", ["data.standardize_target is for numbers"]),
    (
        "a,y\n" + "".join(f"{n},{n / 7}\n" for n in range(50)),
        "data.target=y",
        ["50 different values", "data.kind=numbers"],
    ),
    ("a,b,y\n,1,u\n,2,v\n,3,u\n", "data.target=y", ["the column a has no value; data.drop=[a] leaves it out"]),
    ("a,y\n1,u\n2,v\n", "", ["data.target"]),
]


@pytest.mark.parametrize(("text", "arguments", "said"), MISTAKES)
def test_mistakes_are_refused(lamella: Lamella, text: str | bytes, arguments: str, said: list[str]) -> None:
    write("x.csv", text)
    first = [] if "data.path" in arguments else ["data.path=x.csv"]
    result = lamella("train", "data=csv", *first, *arguments.split())
    assert_refused(result.status, result.err, said)


def assert_refused(status: int, error: str, said: list[str]) -> None:
    assert status == 2, error
    assert error.startswith("error: "), error
    assert len(error.splitlines()) <= 10
    place = 0
    for words in said:
        assert words in error[place:], error
        place = error.index(words, place)
    assert not Path("outputs").exists()


SERIES_MISTAKES = [
    ("data.horizon=200", ["data.window and data.horizon take 224 rows, but the training has 70 of the 100 rows"]),
    ("data.window=9 data.horizon=4", ["the validation has 10 of the 100 rows"]),
    ("data.window=0", ["data.window is 0; it takes 1 or more"]),
    ("data.target=[load,x]", ["data.target names 'x'"]),
]


@pytest.mark.parametrize(("arguments", "said"), SERIES_MISTAKES)
def test_mistakes_with_series_are_refused(lamella: Lamella, arguments: str, said: list[str]) -> None:
    write("x.csv", "load\n" + "".join(f"{n % 5}\n" for n in range(100)))
    given = ["data=series", "data.path=x.csv", "loss=mse", "monitor=val/loss", "data.target=load"]
    result = lamella("train", *given, *arguments.split())
    assert_refused(result.status, result.err, said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("length,colour\n1,red\n", "new.csv: the column code of the training is missing"),
        ("length,colour,code,size\n1,red,1,3\n", "new.csv: the column size was not there in training"),
        ("length,colour,code\n1,red,1\nlong,red,1\n", "new.csv: row 3, column length: 'long' is no number"),
    ],
)
def test_rows_that_a_network_cannot_take_are_refused(lamella: Lamella, plants: Path, text: str, said: str) -> None:
    result = lamella("predict", str(plants), write("new.csv", text))
    assert (result.status, said in result.err) == (2, True), result.err


# What the experiments reach


@pytest.mark.slow
def test_classes_of_a_table_are_learned_as_well_as_by_scikit_learn(lamella: Lamella) -> None:
    from sklearn.neural_network import MLPClassifier

    ours, theirs = [], []
    for seed in range(3):
        run = trained(lamella, "experiment=tabular_classes", f"data.split_seed={seed}", "device.threads=1")
        ours.append(json.loads((run / "run.json").read_text())["metrics"]["test/accuracy"])
        data = data_of(bundled_table("breast_cancer", ["malignant", "benign"]), 2, split_seed=seed)
        theirs.append(
            MLPClassifier((64, 64), batch_size=32, random_state=0).fit(*arrays(data.train)).score(*arrays(data.test))
        )
    assert np.mean(ours) >= np.mean(theirs) - 0.01, (ours, theirs)


@pytest.mark.slow
def test_numbers_of_a_table_are_learned_as_well_as_by_ridge(lamella: Lamella) -> None:
    from sklearn.linear_model import Ridge

    run = trained(lamella, "experiment=tabular_regression", "device.threads=1")
    inputs, targets = arrays((data := data_of(bundled_table("diabetes"), 1)).test)
    predicted = package.load(run).predict(torch.from_numpy(inputs)).numpy()
    error, spread = ((targets - predicted) ** 2).sum(), ((targets - targets.mean()) ** 2).sum()
    assert 1 - error / spread >= Ridge().fit(*arrays(data.train)).score(inputs, targets) - 0.02


@pytest.mark.slow
def test_a_forecast_is_better_than_the_last_value(lamella: Lamella) -> None:
    run = trained(lamella, "experiment=forecast", "device.threads=1")
    inputs, targets = arrays(data_of(waves(48, 12, test_size=0.2), 12).test)
    loss = json.loads((run / "run.json").read_text())["metrics"]["test/loss"]
    naive = ((inputs[:, -1] - targets) ** 2).mean()
    yesterday = ((inputs[:, 24:36, 0] - targets) ** 2).mean()
    assert loss < yesterday < naive


@pytest.mark.slow
def test_the_sampler_finds_more_of_a_rare_class(lamella: Lamella) -> None:
    source = bundled_table("breast_cancer", ["malignant", "benign"], {"malignant": 0.2})
    inputs, targets = arrays(data_of(source, 2, test_size=0.3, val_size=0.2).test)
    malignant = torch.from_numpy(inputs[targets == 0])
    said = {}
    for sampler in ("balanced", "null"):
        run = trained(lamella, "experiment=imbalanced", f"data.sampler={sampler}", "device.threads=1")
        said[sampler] = package.load(run).predict(malignant)[:, 0]
    assert said["balanced"].mean() > said["null"].mean()
    assert float((said["balanced"] > 0.5).float().mean()) >= float((said["null"] > 0.5).float().mean())
