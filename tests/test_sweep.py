"""Sweeps: planned first, each job once and in a process of its own, resumable, with a leaderboard."""

import csv
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import kill
import programs
import pytest
from conftest import Lamella, Project, contents
from hypothesis import given
from hypothesis import strategies as st
from programs import Program, wait_until

from lamella.runs.names import slug

# What is drawn has its own tests.
SHORT = ("network=linear", "trainer.max_epochs=1", "visuals=none")
SWEEP = Path("outputs/default/s")
PLAIN = ("visuals=none", "sweep.name=s")


def record(path: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((path / "run.json").read_text())
    return fields


def members(sweep: Path = SWEEP) -> list[str]:
    return sorted(path.parent.name for path in sweep.glob("*/run.json"))


def epochs(sweep: Path) -> int:
    """Return the number of epochs that the members of a sweep have finished, all together."""
    return sum(path.read_text().count("\n") for path in sweep.glob("*/metrics.jsonl"))


@pytest.mark.slow
def test_what_is_planned_is_said_and_frozen(lamella: Lamella) -> None:
    result = lamella("train", "-m", "network.width=16,32", "seed=0,1", "trainer.max_epochs=1", "sweep.name=s")
    assert result.status == 0, result.err
    assert result.out.startswith(f"{SWEEP}: 4 jobs, the largest network has ")
    assert len(members()) == 4
    plan = [json.loads(line) for line in (SWEEP / "plan.jsonl").read_text().splitlines()]
    assert [line["overrides"][:2] for line in plan] == [
        ["network.width=16", "seed=0"],
        ["network.width=16", "seed=1"],
        ["network.width=32", "seed=0"],
        ["network.width=32", "seed=1"],
    ]
    for line in plan:
        assert line["name"] == ",".join(line["overrides"][:2]).replace("network.", "")
        assert line["config"]["network"]["width"] == int(line["overrides"][0].partition("=")[2])
        assert "sweep" not in line["config"]
    assert len(re.findall(r"^\[\d/4\] network\.width=\d+ seed=\d  val/accuracy 0\.\d+", result.out, re.M)) == 4


@pytest.mark.slow
def test_a_member_is_what_it_is_alone(lamella: Lamella) -> None:
    lamella(
        "train", "-m", "seed=3,4", "network.dropout=0.2", "trainer.max_epochs=2", "device.threads=1", "sweep.name=s"
    )
    lamella("train", "seed=4", "network.dropout=0.2", "trainer.max_epochs=2", "device.threads=1")
    name = slug(["seed=4", "network.dropout=0.2", "trainer.max_epochs=2", "device.threads=1"])
    assert kill.differences(Path("outputs/default", name), SWEEP / "seed=4") == []


@pytest.mark.slow
def test_the_same_line_runs_nothing_twice_and_another_one_adds(lamella: Lamella) -> None:
    line = ("train", "-m", "seed=0,1", *SHORT, "sweep.name=s")
    assert lamella(*line).status == 0
    before = {name: contents(SWEEP / name) for name in members()}
    result = lamella(*line)
    assert result.status == 0
    assert "2 jobs, 2 of them finished" in result.out
    assert "[" not in result.out
    result = lamella("train", "-m", "seed=0,1,2", *SHORT, "sweep.name=s")
    assert "3 jobs, 2 of them finished" in result.out
    assert len(members()) == 3
    assert {name: contents(SWEEP / name) for name in before} == before


@pytest.mark.slow
def test_without_a_name_the_keys_are_the_directory(lamella: Lamella) -> None:
    line = ("train", "-m", "seed=0,1", "optimizer.lr=1e-3", "data.batch_size=64,32", *SHORT)
    for options in (line, (*line[:2], *line[:1:-1])):
        assert lamella(*options).status == 0
    [sweep] = Path("outputs/default").iterdir()
    assert re.fullmatch(r"batch_size×seed-[0-9a-f]{4}", sweep.name)
    assert members(sweep) == sorted(f"seed={seed},batch_size={size}" for seed in (0, 1) for size in (32, 64))
    # What an earlier version has named after the whole line is found by the line.
    old = sweep.rename(sweep.with_name(slug(line[2:])))
    before = contents(old / "seed=0,batch_size=32")
    result = lamella(*line)
    assert result.out.startswith(f"{old}: 4 jobs, 4 of them finished")
    assert contents(old / "seed=0,batch_size=32") == before
    # Two lines whose short hashes are equal have two sweeps.
    old.rename(sweep)
    fields = json.loads((sweep / "sweep.json").read_text())
    (sweep / "sweep.json").write_text(json.dumps({**fields, "arguments": ["-m", "seed=0,1", "data.batch_size=1,2"]}))
    assert lamella(*line).status == 0
    [other] = set(Path("outputs/default").iterdir()) - {sweep}
    assert re.fullmatch(r"batch_size×seed-[0-9a-f]{12}", other.name)


@pytest.mark.slow
def test_members_of_an_older_version_are_found(lamella: Lamella) -> None:
    line = ("train", "-m", "seed=0,1", *SHORT, "sweep.name=s")
    assert lamella(*line).status == 0
    plan = SWEEP / "plan.jsonl"
    old = [slug([f"seed={seed}", *SHORT]) for seed in (0, 1)]
    for seed, name in enumerate(old):
        (SWEEP / f"seed={seed}").rename(SWEEP / name)
        plan.write_text(plan.read_text().replace(f'"name": "seed={seed}"', f'"name": "{name}"'))
    result = lamella("train", "-m", "seed=0,1,2", *SHORT, "sweep.name=s")
    assert "3 jobs, 2 of them finished" in result.out
    assert sorted(members()) == sorted([*old, "seed=2"])
    # What is constant in a line, but not in the sweep, is a part of the name.
    assert lamella("train", "-m", "seed=0", *SHORT, "data.batch_size=32", "sweep.name=s").status == 0
    assert set(members()) == {*old, "seed=2", "seed=0,batch_size=32"}


@pytest.mark.slow
def test_what_is_edited_later_changes_nothing_that_is_planned(lamella: Lamella) -> None:
    Path("conf/optimizer").mkdir(parents=True)
    mine = Path("conf/optimizer/mine.yaml")
    mine.write_text("_target_: torch.optim.SGD\nlr: 0.25\n")
    Path("conf/network").mkdir()
    Path("conf/network/broken.yaml").write_text("layers: [Flatten, {Linear: '${data.num_classes}'}]\n")
    line = ("train", "-m", "optimizer=mine", "seed=0,1,2", "network=broken", "trainer.max_epochs=1", "sweep.name=s")
    assert lamella(*line).status == 0
    shutil.rmtree(SWEEP / members()[0])
    mine.write_text("_target_: torch.optim.SGD\nlr: 0.5\n")
    result = lamella(*line)
    assert "conf/ has changed since this sweep was planned; the sweep keeps its planned configs" in result.out
    shutil.rmtree(SWEEP / members()[1])
    Path("conf/network/broken.yaml").write_text("layers: [Nonsense]\n")
    assert lamella("resume", str(SWEEP)).status == 0
    for name in members():
        assert "lr: 0.25" in (SWEEP / name / "config.yaml").read_text()
    assert len(members()) == 3


@pytest.mark.slow
def test_duplicates_are_dropped(lamella: Lamella) -> None:
    result = lamella("train", "-m", "optimizer.lr=1e-3,0.001,1e-2", *SHORT, "sweep.name=s")
    assert "2 jobs, 1 duplicate dropped" in result.out
    assert len(members()) == 2


@pytest.mark.slow
def test_jobs_that_cannot_be_run_are_all_said_first(lamella: Lamella) -> None:
    line = ("train", "-m", "optimizer.lr=1e-3,-1", "network=linear,cnnn", "trainer.max_epochs=1", "sweep.name=s")
    result = lamella(*line)
    assert result.status == 2
    assert result.err == (
        "error: network=cnnn: there is no such option; did you mean cnn?\n"
        "  in the job optimizer.lr=0.001 network=cnnn trainer.max_epochs=1\n"
        "error: optimizer.lr: Invalid learning rate: -1\n  from the command line: optimizer.lr=-1\n"
        "  in the job optimizer.lr=-1 network=linear trainer.max_epochs=1\n"
    )
    assert not Path("outputs").exists()
    result = lamella(*line, "sweep.skip_invalid=true")
    assert result.status == 0
    assert "1 job, 3 that cannot be run left out" in result.out
    assert len(members()) == 1
    result = lamella("train", "-m", "optimizer.lr=-1,-2", *SHORT, "sweep.skip_invalid=true")
    assert result.status == 2


@pytest.mark.slow
def test_pairs(lamella: Lamella) -> None:
    values = ("optimizer.lr=1e-1,1e-2", "data.batch_size=32,64", "seed=0,1")
    result = lamella("train", "-m", *values, *SHORT, "sweep.zip=[optimizer.lr,data.batch_size]", "sweep.name=s")
    assert result.status == 0, result.err
    pairs = [(config["optimizer"]["lr"], config["data"]["batch_size"]) for config in plan()]
    assert pairs == [(0.1, 32), (0.1, 32), (0.01, 64), (0.01, 64)]


def plan(sweep: Path = SWEEP) -> list[dict[str, dict[str, Any]]]:
    return [json.loads(line)["config"] for line in (sweep / "plan.jsonl").read_text().splitlines()]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 3))
def test_every_combination_once(counts: list[int], together: int) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from lamella.sweeps.combinations import combinations

    counts[: together + 1] = [counts[0]] * len(counts[: together + 1])
    texts = [f"k{i}={','.join(str(value) for value in range(count))}" for i, count in enumerate(counts)]
    keys = [f"k{i}" for i in range(len(counts))][: together + 1]
    zipped = [keys] if len(keys) > 1 else []
    found = combinations(OverridesParser.create().parse_overrides(texts), zipped)
    free = counts[len(keys) :] if zipped else counts[1:]
    expected = counts[0]
    for count in free:
        expected *= count
    assert len(found) == expected
    assert len({tuple(job) for job in found}) == expected
    assert all(len(job) == len(counts) for job in found)
    if zipped:
        assert all(len({text.partition("=")[2] for text in job[: len(keys)]}) == 1 for job in found)


REFUSED = {
    "sweep.nam=x": "error: sweep.nam: there is no such key; did you mean name?",
    "sweep.name=a/b": "error: sweep.name is 'a/b'; it names a directory in outputs/, and takes a word",
    "sweep.max_failures=0": "error: sweep.max_failures is 0; it takes 1 or more, or null",
    "sweep.skip_invalid=perhaps": "error: sweep.skip_invalid is 'perhaps'; it takes true or false",
    "sweep.measure=perhaps": "error: sweep.measure is 'perhaps'; it takes true or false",
    "sweep.budget=2": "error: sweep.budget is 2; it takes a number with its unit, as 30s, 90min, 2h or 1.5d, or null",
    "sweep.budget=0h": "error: sweep.budget is '0h'; it takes a number with its unit",
    "sweep.objectives=seconds": "error: sweep.objectives is 'seconds'; it takes a list, as [val/accuracy,seconds]",
    "sweep.objectives=[val/acuracy]": "error: sweep.objectives: there is no 'val/acuracy'; did you mean val/accuracy",
    "sweep.zip=optimizer.lr": "error: sweep.zip is 'optimizer.lr'; it takes two or more keys",
    "sweep.zip=[optimizer.lr]": "error: sweep.zip is ['optimizer.lr']; it takes two or more keys",
    "sweep.zip=[optimizer.lr,seed]": "error: sweep.zip: the keys have different numbers of values: optimizer.lr 3, "
    "seed 2",
    "sweep.zip=[optimizer.lr,optimizer.lr]": "error: sweep.zip names optimizer.lr twice",
    "sweep.zip=[optimizer.lr,optimizer.l]": "error: sweep.zip: optimizer.l has no values here; did you mean",
    "hydra.launcher.slots=0": "error: hydra.launcher.slots is 0; it takes 1 or more, or null",
    "data.batch_size=interval(1,9)": "error: data.batch_size=interval(1,9): an interval has no end of values",
    "hydra/launcher=submitit_local": "error: hydra.launcher is hydra_plugins.hydra_submitit_launcher",
    "hydra/sweeper=basic": "error: hydra.sweeper is hydra._internal.core_plugins.basic_sweeper.BasicSweeper; a sweep "
    "is made by hydra/sweeper=grid or hydra/sweeper=optuna",
    "hydra/launcher=lokal": "error: hydra/launcher=lokal: there is no such option; did you mean local?",
}


@pytest.mark.slow
@pytest.mark.parametrize("override", REFUSED)
def test_what_is_refused(lamella: Lamella, override: str) -> None:
    result = lamella("train", "-m", "optimizer.lr=1,2,3", "seed=0,1", *SHORT, override)
    assert result.status == 2
    assert result.err.startswith(REFUSED[override])
    assert "Traceback" not in result.err
    assert not Path("outputs").exists()


def test_sweep_keys_are_for_sweeps(lamella: Lamella) -> None:
    result = lamella("train", "sweep.name=s")
    assert result.status == 2
    assert result.err == "error: sweep.name=s: this is for a sweep, which takes -m\n"


@pytest.mark.slow
def test_a_directory_that_is_something_else_is_let_be(lamella: Lamella, run: Path) -> None:
    before = contents(run)
    result = lamella("train", "-m", "seed=0,1", *SHORT, f"sweep.name={run.name}")
    assert result.status == 2
    assert f"error: {run} exists and is not a sweep; choose another sweep.name" in result.err
    assert contents(run) == before


@pytest.mark.slow
def test_failures_are_listed_and_the_others_go_on(lamella: Lamella) -> None:
    line = ("train", "-m", "optimizer.lr=1e-2,1e30,1e-3,1e31", "trainer.max_epochs=1", "sweep.name=s")
    result = lamella(*line)
    assert result.status == 1
    assert "2 failed\n" in result.out
    assert re.search(r"  optimizer\.lr=1e\+30: NonFiniteLoss: the loss is .*\n    outputs/.*/log\.txt\n", result.out)
    assert f"to try again: lamella resume {SWEEP}" in result.out
    states = [record(SWEEP / name)["status"] for name in members()]
    assert sorted(map(str, states)) == ["failed", "failed", "finished", "finished"]
    assert not list(SWEEP.glob("*.out"))
    again = lamella(*line)  # they are tried again, and nothing else is
    assert again.status == 1
    assert again.out.count("failed: NonFiniteLoss") == 2
    assert "val/accuracy 0" not in again.out.partition("\n\n")[0]


@pytest.mark.slow
def test_max_failures_stops_early(lamella: Lamella) -> None:
    rates = ",".join(f"1e{number}" for number in range(30, 38))
    line = ("train", "-m", f"optimizer.lr={rates}", "trainer.max_epochs=1", "sweep.name=s", "hydra.launcher.slots=1")
    result = lamella(*line, "sweep.max_failures=2")
    assert result.status == 1
    assert "2 failed; sweep.max_failures is 2" in result.out
    assert len(members()) == 2
    assert result.out.count(" planned ") == 6


@pytest.mark.slow
def test_a_job_that_is_refused_only_when_it_starts(lamella: Lamella, project: Project) -> None:
    project(
        mine=(
            "from pytorch_lightning import Callback\n\n\nclass Refuse(Callback):\n"
            "    def __init__(self):\n        raise ValueError('not today')\n"
        )
    )
    line = ("train", "-m", "seed=0,1", *SHORT, "+trainer.callbacks=[{_target_: mine.Refuse}]", "sweep.name=s")
    result = lamella(*line)
    assert result.status == 1
    assert "failed: trainer.callbacks.0: not today" in result.out
    assert len(list(SWEEP.glob("*.out"))) == 2
    assert members() == []


@pytest.mark.slow
def test_a_job_that_dies(lamella: Lamella, project: Project) -> None:
    project(
        mine=(
            "import os\nfrom pytorch_lightning import Callback\n\n\nclass Die(Callback):\n"
            "    def on_train_epoch_start(self, trainer, module):\n        os.kill(os.getpid(), 9)\n"
        )
    )
    result = lamella("train", "-m", "seed=0,1", *SHORT, "+trainer.callbacks=[{_target_: mine.Die}]", "sweep.name=s")
    assert result.status == 1
    assert result.out.count("failed: ended by SIGKILL; the machine may have run out of memory") == 2


@pytest.mark.slow
def test_no_memory_is_called_that(lamella: Lamella) -> None:
    huge = "network.layers=[{Upsample: {scale_factor: 300000}},{AdaptiveAvgPool2d: 2},Flatten,{Linear: 10}]"
    result = lamella("train", "-m", "seed=0,1", *SHORT, huge, "sweep.name=s")
    assert result.status == 2
    assert "error: data.batch_size is 64: out of memory on cpu: Upsample at 0 fails on " in result.err


@pytest.mark.slow
def test_two_sweeps_at_once(tmp_path: Path) -> None:
    line = ("train", "-m", "seed=0,1", "trainer.max_epochs=2000", *PLAIN)
    first = Program(tmp_path, *line)
    wait_until(lambda: list((tmp_path / SWEEP).glob("*/run.json")), 60, first)
    second = Program(tmp_path, *line)
    assert second.wait() == 2
    assert second.err == f"error: {SWEEP}: another process is at work on this sweep\n"
    first.send_signal(signal.SIGINT)
    assert first.wait(60) == 130
    out = first.out
    assert out.count("interrupted\n") == 2
    assert out.endswith(f"interrupted; to go on: lamella resume {SWEEP}\n")


@pytest.mark.slow(25)
def test_a_sweep_that_is_told_to_end_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    line = ("train", "-m", "seed=0,1,2", "network.dropout=0.2", "trainer.max_epochs=25", *PLAIN)
    reference, other = tmp_path / "reference", tmp_path / "other"
    programs.run(reference, *line)
    for number, start in ((signal.SIGINT, line), (signal.SIGTERM, ("resume", str(SWEEP)))):
        # In the middle of the members; later, in the middle of those that go on.
        enough = epochs(other / SWEEP) + 4
        process = Program(other, *start)

        def advanced(enough: int = enough) -> bool:
            return epochs(other / SWEEP) >= enough

        wait_until(advanced, 60, process)
        process.send_signal(number)
        assert process.wait(60) == 128 + number
        states = [record(other / SWEEP / name)["status"] for name in members(other / SWEEP)]
        assert "interrupted" in states
        assert "running" not in states
        assert process.out.endswith(f"interrupted; to go on: lamella resume {SWEEP}\n")
    programs.run(other, "resume", str(SWEEP))
    assert members(other / SWEEP) == members(reference / SWEEP)
    for name in members(reference / SWEEP):
        assert kill.differences(reference / SWEEP / name, other / SWEEP / name) == []


@pytest.mark.slow(20)
def test_killed_at_any_moment(tmp_path: Path) -> None:
    """The whole process group, again and again; then the same line once more: as if nothing had been."""
    seeds, rates = "seed=0,1,2", "optimizer.lr=1e-1,1e-3"
    line = ("train", "-m", seeds, rates, "network.dropout=0.2", "trainer.max_epochs=4", *PLAIN)
    reference, other = tmp_path / "reference", tmp_path / "other"
    start = time.monotonic()
    programs.run(reference, *line)
    seconds = time.monotonic() - start
    chance, kills = random.Random(0), 0
    for number in range(5):
        resume = number % 2 and (other / SWEEP / "sweep.json").exists()
        process = Program(other, *(("resume", str(SWEEP)) if resume else line))
        if not process.ended(seconds / 4 * chance.uniform(0, 1) ** 2):
            process.kill_group()
            kills += 1
        assert process.wait() in (0, -signal.SIGKILL)
    programs.run(other, *line)
    assert kills
    assert len(members(other / SWEEP)) == 6
    for name in members(reference / SWEEP):
        assert kill.differences(reference / SWEEP / name, other / SWEEP / name) == []
    assert not list((other / SWEEP).glob("*.out"))
    rows = [
        [{key: value for key, value in row.items() if key != "directory"} for row in leaderboard(folder / SWEEP)]
        for folder in (reference, other)
    ]
    assert rows[0] == rows[1]


def leaderboard(sweep: Path = SWEEP) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((sweep / "leaderboard.json").read_text())["rows"]
    return rows


@pytest.mark.slow(15)
def test_only_the_sweep_itself_is_killed(tmp_path: Path) -> None:
    """Its jobs save what they have and end; the same line waits for them and goes on."""
    line = ("train", "-m", "seed=0,1", "network.dropout=0.2", "trainer.max_epochs=30", *PLAIN)
    reference, other = tmp_path / "reference", tmp_path / "other"
    programs.run(reference, *line)
    process = Program(other, *line)
    wait_until(lambda: len(list((other / SWEEP).glob("*/metrics.jsonl"))) == 2, 60, process)
    process.kill()
    programs.run(other, *line)
    assert process.wait() == -signal.SIGKILL
    logs = [(other / SWEEP / name / "log.txt").read_text() for name in members(other / SWEEP)]
    assert any("going on after epoch" in log for log in logs)
    for name in members(reference / SWEEP):
        assert kill.differences(reference / SWEEP / name, other / SWEEP / name) == []


@pytest.mark.slow(30)
def test_jobs_of_two_processes(tmp_path: Path) -> None:
    line = ("train", "-m", "trainer.devices=1,2", "device=cpu", "network=linear", "trainer.max_epochs=1")
    # Their workers are processes that a job, forked itself, starts.
    workers = ("data.in_memory=false", "data.num_workers=1")
    programs.run(tmp_path, *line, *workers, "data.drop_last=true", "optimizer=sgd", "sweep.name=s")
    one, two = (record(tmp_path / SWEEP / name)["metrics"] for name in members(tmp_path / SWEEP))
    for name in ("train/loss", "val/loss", "test/loss"):
        assert one[name] == pytest.approx(two[name], rel=1e-4)


@pytest.mark.slow(10)
def test_what_jobs_import_is_imported_once(tmp_path: Path) -> None:
    lines = [
        "from lamella.sweeps.launch import forkserver",
        "forkserver.warm_up()",
        "server = forkserver.forkserver._forkserver",
        "number = server._forkserver_pid",
        "job = forkserver.CONTEXT.Process(target=print, args=('a job',), daemon=True)",
        "job.start()",
        "job.join()",
        "arguments = open(f'/proc/{number}/cmdline').read()",
        "print(job.exitcode, server._forkserver_pid == number, 'forkserver import main' in arguments)",
    ]
    Path(tmp_path, "program.py").write_text(
        "\n".join(["if __name__ == '__main__':", *(f"    {line}" for line in lines)])
    )
    done = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("a job\n0 True False\n", "")


@pytest.mark.slow(10)
def test_the_leaderboard(lamella: Lamella) -> None:
    line = ("train", "-m", "optimizer.lr=1e-2,1e-4", "network=linear,mlp", "seed=0,1,2", "trainer.max_epochs=2")
    result = lamella(*line, "sweep.name=s")
    assert result.status == 0, result.err
    rows = leaderboard()
    assert len(rows) == 4
    assert {(row["optimizer.lr"], row["network"]) for row in rows} == {
        (rate, name) for rate in (0.01, 0.0001) for name in ("linear", "mlp")
    }
    assert [row["n"] for row in rows] == [3] * 4
    scores = [float(str(row["val/accuracy"])) for row in rows]
    assert scores == sorted(scores, reverse=True)
    for row in rows:
        pattern = f"lr={row['optimizer.lr']},network={row['network']},seed=*"
        values = [record(path)["metrics"]["val/accuracy"] for path in SWEEP.glob(pattern)]
        assert len(values) == 3
        mean = sum(values) / 3
        assert row["val/accuracy"] == pytest.approx(mean)
        spread = (sum((value - mean) ** 2 for value in values) / 2) ** 0.5
        assert row["val/accuracy std"] == pytest.approx(spread)
        best = record(Path(str(row["directory"])))["metrics"]["val/accuracy"]
        assert best == max(values)
    with (SWEEP / "leaderboard.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(row["val/accuracy"]) for row in table] == scores
    assert (SWEEP / "leaderboard.png").read_bytes().startswith(b"\x89PNG")
    shown = lamella("runs", str(SWEEP))
    assert shown.out.strip() == result.out.partition("\n\n")[2].strip()
    assert re.search(r"^optimizer\.lr +network +n +val/accuracy ", shown.out)
    assert "±" in shown.out
    assert len(lamella("runs", str(SWEEP), "--json").out) > 1000  # the list is still there


@pytest.mark.slow
def test_the_front_of_several_objectives(lamella: Lamella) -> None:
    line = ("train", "-m", "network.width=8,32,128", "trainer.max_epochs=2", "sweep.objectives=[val/loss,parameters]")
    assert lamella(*line, "sweep.name=s").status == 0
    rows = leaderboard()
    points = [(float(str(row["val/loss"])), float(str(row["parameters"]))) for row in rows]
    for row, point in zip(rows, points, strict=True):
        beaten = any(other != point and other[0] <= point[0] and other[1] <= point[1] for other in points)
        assert row["front"] == (not beaten)


@pytest.mark.slow
def test_values_from_a_config(lamella: Lamella) -> None:
    Path("conf/experiment").mkdir(parents=True)
    Path("conf/experiment/rates.yaml").write_text(
        "# @package _global_\nname: rates\nsweep:\n  name: all\ntrainer:\n  max_epochs: 1\n"
        'hydra:\n  sweeper:\n    params:\n      optimizer.lr: "1e-2,1e-3"\n      seed: "0,1"\n'
    )
    assert lamella("train", "-m", "experiment=rates").status == 0
    assert len(members(Path("outputs/rates/all"))) == 4
    assert lamella("train", "experiment=rates").status == 0  # one run is one run
    assert Path("outputs/rates/experiment=rates/run.json").exists()


@pytest.mark.slow
def test_resume_takes_a_sweep_and_a_member_that_is_only_planned(lamella: Lamella) -> None:
    assert lamella("train", "-m", "seed=0,1", *SHORT, "sweep.name=s").status == 0
    first, second = members()
    whole_one = contents(SWEEP / second)
    for name in (first, second):
        shutil.rmtree(SWEEP / name)
    result = lamella("resume", str(SWEEP / first), "trainer.max_epochs=2")
    assert result.status == 2
    assert result.err.endswith("has not started yet, and its sweep has planned it; leave this override out\n")
    assert lamella("resume", str(SWEEP / first)).status == 0
    assert members() == [first]
    result = lamella("resume", str(SWEEP), "seed=1")
    assert result.status == 2
    assert result.err == "error: seed=1: a sweep goes on as it was planned; give the directory of one member\n"
    assert lamella("resume", str(SWEEP)).status == 0
    assert members() == [first, second]
    assert contents(SWEEP / second).keys() >= {key for key in whole_one if "tfevents" not in key}
    assert lamella("resume", str(SWEEP / "nothing")).status == 2


GOOD = {
    "format": 1,
    "arguments": [],
    "launcher": {},
    "monitor": "val/loss",
    "metric": "accuracy",
    "objectives": [],
    "swept": [],
    "threads": None,
    "max_failures": None,
}
WRONG: list[dict[str, object]] = [{"search": {}}, {"search": 3}, {"pruned": 3}, {"swept": [1]}]
DAMAGE = {
    "sweep.json": [
        *("{", "[]", '{"format": 2}', '{"format": 1}'),
        *(json.dumps(GOOD | wrong) for wrong in WRONG),
    ],
    "plan.jsonl": [
        "{}\n",
        "[]\n",
        '{"name": "../x", "overrides": [], "config": {}}\n',
        '{"name": "x", "overrides": [1], "config": {"device": {}, "trainer": {}}}\n',
        "\xff\n",
    ],
}


@pytest.mark.parametrize(("file", "text"), [(file, text) for file, texts in DAMAGE.items() for text in texts])
def test_a_damaged_plan_is_refused(lamella: Lamella, file: str, text: str) -> None:
    SWEEP.mkdir(parents=True)
    (SWEEP / "sweep.json").write_text(json.dumps(GOOD))
    (SWEEP / file).write_bytes(text.encode("latin-1"))
    before = contents(SWEEP)
    for command in (["resume", str(SWEEP)], ["runs", str(SWEEP)]):
        result = lamella(*command)
        assert result.status == 2
        assert result.err.startswith(f"error: {SWEEP}: its plan is damaged (")
    (SWEEP / ".lock").unlink(missing_ok=True)
    assert contents(SWEEP) == before


@pytest.mark.slow
def test_a_line_of_the_plan_that_was_being_written(lamella: Lamella) -> None:
    assert lamella("train", "-m", "seed=0,1", *SHORT, "sweep.name=s").status == 0
    plan = SWEEP / "plan.jsonl"
    lines = plan.read_text().splitlines(keepends=True)
    plan.write_text(lines[0] + lines[1][:50])
    assert lamella("train", "-m", "seed=0,1", *SHORT, "sweep.name=s").status == 0
    assert plan.read_text().splitlines(keepends=True) == lines


@pytest.mark.slow(30)
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_launchers_of_others(lamella: Lamella, tmp_path: Path, launcher: str) -> None:
    line = ("train", "-m", "seed=0,1,2", *SHORT, f"hydra/launcher={launcher}", "sweep.name=s", "device.threads=1")
    # The processes of joblib look for the main module of the program.
    programs.run(tmp_path, *line, kind=programs.RealProgram if launcher == "joblib" else Program)
    assert len(members()) == 3
    lamella(*line[:-3], "sweep.name=other", "device.threads=1")
    for name in members():
        assert kill.differences(SWEEP / name, Path("outputs/default/other") / name) == []
    result = lamella(*line, "trainer=ddp", "device=cpu")
    assert result.status == 2
    assert result.err.startswith(
        "error: trainer: this launcher cannot run a job of several processes; use hydra/launcher="
    )


@pytest.mark.slow
def test_swept_options_of_the_sweep_are_refused(lamella: Lamella) -> None:
    result = lamella("train", "-m", "seed=0,1", *SHORT, "sweep.objectives=val/loss,seconds")
    assert result.status == 2
    assert result.err.startswith(
        "error: sweep.objectives=val/loss,seconds: sweep.objectives takes one value; a list is "
        "sweep.objectives=[val/loss,seconds]"
    )
    assert not Path("outputs").exists()


@pytest.mark.slow
def test_a_later_line_with_another_constant_is_no_other_seed(lamella: Lamella) -> None:
    for epochs in (1, 2):
        line = ("train", "-m", "seed=0,1", "network=linear", f"trainer.max_epochs={epochs}", "sweep.name=s")
        assert lamella(*line).status == 0
    assert [(row["trainer.max_epochs"], row["n"]) for row in leaderboard()] in ([(1, 2), (2, 2)], [(2, 2), (1, 2)])


@pytest.mark.slow
def test_the_group_is_told_to_end(tmp_path: Path) -> None:
    """As a terminal, Slurm and systemd do: everything gets the signal, and the sweep waits for its jobs."""
    process = Program(tmp_path, "train", "-m", "seed=0,1", "trainer.max_epochs=3000", "sweep.name=s")
    wait_until(lambda: len(list((tmp_path / SWEEP).glob("*/metrics.jsonl"))) == 2, 60, process)
    process.kill_group(signal.SIGTERM)
    assert process.wait(60) == 143
    assert "Traceback" not in process.out + process.err
    assert [record(tmp_path / SWEEP / name)["status"] for name in members(tmp_path / SWEEP)] == ["interrupted"] * 2


@pytest.mark.slow(12)
def test_nobody_reads_along(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lamella", "train", "-m", "seed=0,1,2,3", *SHORT, "sweep.name=s"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout
    assert process.stdout.readline().startswith(f"{SWEEP}: 4 jobs")
    process.stdout.close()  # as `| head -1` does
    assert process.wait(timeout=60) == 0
    assert len(leaderboard(tmp_path / SWEEP)) == 1
    assert [record(tmp_path / SWEEP / name)["status"] for name in members(tmp_path / SWEEP)] == ["finished"] * 4


@pytest.mark.slow
def test_ctrl_c_in_one_process(tmp_path: Path) -> None:
    line = ("train", "-m", "seed=0,1,2", "trainer.max_epochs=400", "sweep.name=s", "hydra/launcher=basic")
    process = Program(tmp_path, *line)
    wait_until(lambda: list((tmp_path / SWEEP).glob("*/metrics.jsonl")), 60, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert process.out.endswith(f"interrupted; to go on: lamella resume {SWEEP}\n")
    assert len(members(tmp_path / SWEEP)) == 1


@pytest.mark.slow
def test_a_strange_exit_status_and_a_cause_of_before(lamella: Lamella, project: Project) -> None:
    code = "from pytorch_lightning import Callback\n\n\nclass Die(Callback):\n    def on_train_start(self, *given):\n"
    line = ("train", "-m", "seed=0,1", *SHORT, "+trainer.callbacks=[{_target_: mine.Die}]", "sweep.name=s")
    project(mine=f"{code}        raise OSError('first')\n")
    assert lamella(*line).out.count("failed: OSError: first") == 2
    project(mine=f"import os\n{code}        os._exit(200)\n")
    result = lamella(*line)
    assert result.status == 1
    assert result.out.count("failed: exit status 200") == 2


EVIL = {
    "a part to build": {
        "_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
        "x": {"_target_": "os.x"},
    },
    "an interpolation": {"slots": "${oc.env:HOME}"},
    "a class": {"_target_": "os.system"},
    "a script": {
        "_target_": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
        "setup": ["touch hacked"],
        "tasks_per_node": 1,
        "nodes": 1,
    },
    "a line": {"slots": None, "comment": "x\ntouch hacked"},
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", EVIL)
def test_a_plan_of_somebody_else_runs_nothing(lamella: Lamella, launcher: str) -> None:
    assert lamella("train", "-m", "seed=0,1", *SHORT, "sweep.name=s").status == 0
    fields = json.loads((SWEEP / "sweep.json").read_text())
    (SWEEP / "sweep.json").write_text(json.dumps(fields | {"launcher": EVIL[launcher]}))
    result = lamella("resume", str(SWEEP))
    assert result.status == 2
    assert result.err.startswith("error: hydra.launcher")


def test_an_interpolation_in_the_values_of_a_sweep_builds_nothing(lamella: Lamella) -> None:
    Path("conf/experiment").mkdir(parents=True)
    Path("conf/experiment/x.yaml").write_text(
        "# @package _global_\nevil:\n  _target_: pathlib.Path.touch\n  _args_: [hacked]\n"
        "hydra:\n  sweeper:\n    params:\n      seed: ${evil}\n"
    )
    result = lamella("train", "-m", "experiment=x")
    assert result.status == 2
    assert result.err.startswith("error: hydra.sweeper.params.seed is '${evil}'; a sweeper takes plain values")


@pytest.mark.slow
def test_links_and_strange_files_in_a_planned_directory_are_let_be(lamella: Lamella) -> None:
    assert lamella("train", "-m", "seed=0,1", *SHORT, "sweep.name=s").status == 0
    first, second = members()
    Path("elsewhere").mkdir()
    Path("elsewhere/mine").write_text("kept")
    shutil.rmtree(SWEEP / first)
    (SWEEP / first).symlink_to(Path("elsewhere").absolute())
    (SWEEP / f"{first}.out").symlink_to(Path("elsewhere/mine").absolute())
    (SWEEP / second / "run.json").unlink()
    result = lamella("resume", str(SWEEP))
    assert result.status == 2
    assert result.err == f"error: {SWEEP / first} is a link that leads out of the sweep; put there what it links to\n"
    (SWEEP / first).unlink()
    result = lamella("resume", str(SWEEP))
    assert (
        result.err == f"error: {SWEEP / first}.out is a link that leads out of the sweep; put there what it links to\n"
    )
    (SWEEP / f"{first}.out").unlink()
    result = lamella("resume", str(SWEEP))
    assert result.status == 1
    assert "exists, but its directory has no run.json; move it away" in result.out
    assert Path("elsewhere/mine").read_text() == "kept"
    assert (SWEEP / second / "checkpoints/best.ckpt").exists()
