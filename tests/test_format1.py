"""Runs of record format 1, which every later version has to open, with every command that takes a run."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from conftest import Lamella
from PIL import Image

import lamella as package
from lamella.commands.reproduce import MEASURED

RECORDED = Path(__file__).parent / "format1"
NAMES = ("digits", "affine")  # affine was written when its class was in lamella.layers


@pytest.fixture(params=NAMES)
def old(lamella: Lamella, request: pytest.FixtureRequest) -> Path:
    """Return a copy of a recorded run, in an empty working directory."""
    return copy(request.param)


def copy(name: str) -> Path:
    """Copy a recorded run into `outputs/old` of the working directory."""
    return Path(shutil.copytree(RECORDED / name, Path("outputs/old") / name))


def fields(run: Path) -> dict[str, object]:
    """Return the record of a run."""
    record: dict[str, object] = json.loads((run / "run.json").read_text())
    return record


def epochs(run: Path) -> list[dict[str, float]]:
    """Return the metrics of each epoch of a run."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_commands_open_it(lamella: Lamella, old: Path) -> None:
    for command in (["inspect"], ["eval"], ["export", "--format", "safetensors"]):
        result = lamella(command[0], str(old), *command[1:])
        assert result.status == 0, result.err
    assert (old / "network.safetensors").is_file()


@pytest.mark.slow
def test_eval_gives_the_recorded_metrics(lamella: Lamella, old: Path) -> None:
    assert lamella("eval", str(old), "--out", "x.json").status == 0
    metrics = fields(old)["metrics"]
    assert isinstance(metrics, dict)
    recorded = {name: value for name, value in metrics.items() if name.startswith("test/")}
    assert recorded.keys() == {"test/loss", "test/accuracy"}
    assert json.loads(Path("x.json").read_text())["metrics"] == pytest.approx(recorded, rel=1e-4)


def test_predict_takes_images_where_it_was_trained_on_images(lamella: Lamella, old: Path) -> None:
    Image.new("L", (8, 8)).save("x.png")
    result = lamella("predict", str(old), "x.png")
    if fields(old)["images"]:
        assert result.status == 0, result.err
    else:
        assert (result.status, "was not trained on images" in result.err) == (2, True)


def test_a_finished_run_is_finished(lamella: Lamella, old: Path) -> None:
    result = lamella("resume", str(old))
    assert (result.status, f"{old} is finished: {fields(old)['epochs']} epochs" in result.out) == (0, True)


def test_it_trains_on(lamella: Lamella, old: Path) -> None:
    """The checkpoint is read too: Lightning's loops, the optimizer, the samples and the best epoch."""
    count = len(epochs(old))
    result = lamella("resume", str(old), f"trainer.max_epochs={count + 1}")
    assert result.status == 0, result.err
    assert f"going on after epoch {count}\n" in result.out
    assert (fields(old)["status"], fields(old)["epochs"]) == ("finished", count + 1)


def test_it_reproduces(lamella: Lamella, old: Path) -> None:
    """Bit for bit; where the versions or the machine differ, which is then printed, within the rounding of floats."""
    result = lamella("reproduce", str(old))
    assert result.status == 0 or re.search(r"^  (versions|environment) ", result.out, re.MULTILINE), result
    [again] = Path("outputs", str(fields(old)["name"])).iterdir()
    assert fields(again)["status"] == "finished"
    assert [fields(again)[key] for key in ("epochs", "steps")] == [fields(old)[key] for key in ("epochs", "steps")]
    for line, recorded in zip(epochs(again), epochs(old), strict=True):
        assert line.keys() == recorded.keys()
        for name, value in recorded.items():
            if name not in MEASURED:
                # With other rounding, one sample of some hundred may be taken for another class.
                within = 0.01 if name.endswith("accuracy") else 1e-3 * value
                assert line[name] == pytest.approx(value, abs=within), name


def test_it_is_listed_and_compared(lamella: Lamella) -> None:
    runs = [copy(name) for name in NAMES]
    rows = json.loads(lamella("runs", "--json", "--columns", "directory,network,status").out)
    assert sorted(row["directory"] for row in rows) == sorted(map(str, runs))
    assert {row["status"] for row in rows} == {"finished"}
    result = lamella("compare", *map(str, runs))
    assert result.status == 0, result.err
    assert re.search(r"^network +linear +affine", result.out, re.MULTILINE)


def test_it_loads(old: Path) -> None:
    model = package.load(old)
    assert model.shape == tuple(yaml.safe_load((old / "config.yaml").read_text())["data"]["shape"])
    assert model.predict(torch.zeros(2, *model.shape)).shape[0] == 2


def test_visuals_have_kept_their_old_names(lamella: Lamella) -> None:
    run = copy("digits")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["visuals"] = {"samples": {"_target_": "lamella.visuals.Samples", "count": 4}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    result = lamella("resume", str(run), "trainer.max_epochs=2")
    assert result.status == 0, result.err
