"""Damage and full disks: what is refused before a run is changed, and what ends in one line and leaves nothing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Lamella, contents
from programs import wait_until
from test_environment import SMALL, script

LONGER = "trainer.max_epochs=3"
LIMIT = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))"  # the largest file, in bytes


def refused(lamella: Lamella, run: Path, *arguments: str) -> str:
    """Return the error of a command that is refused and changes nothing in the run."""
    before = contents(run)
    result = lamella(*arguments)
    assert result.status == 2, result.out
    assert contents(run) == before
    return result.err


@pytest.mark.slow
def test_lost_metrics_are_noticed(lamella: Lamella, run: Path) -> None:
    file = run / "metrics.jsonl"
    text = file.read_text()
    first, second = text.splitlines(keepends=True)
    file.write_text(first)
    lost = "the metrics of finished epochs are lost"
    known = f"but {len(text)} when the checkpoint was saved: {lost}"
    error = refused(lamella, run, "resume", str(run), LONGER)
    assert error.startswith(f"error: {file}: it has {len(first)} bytes, {known};\n  put the file back, or begin")
    file.write_text(second + first)
    assert f"{file} is damaged: line 1 does not belong" in refused(lamella, run, "resume", str(run), LONGER)
    file.unlink()
    assert f"{file}: it has 0 bytes, {known}" in refused(lamella, run, "resume", str(run), LONGER)


@pytest.mark.slow
def test_a_checkpoint_of_another_run_is_refused(lamella: Lamella, run: Path) -> None:
    assert lamella(SMALL[0], *SMALL[2:], "network=mlp", "seed=1", "name=other").status == 0
    [other] = Path("outputs/other").iterdir()
    for name in ("best.ckpt", "last.ckpt"):
        own = run / "checkpoints" / name
        shutil.copy(own, "kept")
        own.unlink()  # it may be a link to the other one
        shutil.copy(other / "checkpoints" / name, own)
        for arguments in (["resume", str(run), LONGER], ["eval", str(run), "--checkpoint", name.removesuffix(".ckpt")]):
            error = refused(lamella, run, *arguments)
            assert (
                f"checkpoints/{name}: this is a checkpoint of another run, or config.yaml was edited: it was" in error
            )
            assert "seed=1,\n  and config.yaml has seed=0; put the right file back" in error
        shutil.copy("kept", own)
    assert lamella("eval", str(run), "--checkpoint", str(other / "checkpoints/best.ckpt")).status == 0


@pytest.mark.slow
def test_a_config_that_was_edited_after_the_checkpoint_is_refused(lamella: Lamella, run: Path) -> None:
    """What makes no difference to the result may be edited."""
    file = run / "config.yaml"
    text = file.read_text()
    file.write_text(text.replace("batch_size: 64", "batch_size: 32"))
    error = refused(lamella, run, "resume", str(run), LONGER)
    assert "trained with data.batch_size=64,\n  and config.yaml has data.batch_size=32; put the right" in error
    file.write_text(text.replace("checkpoint_every: 5min", "checkpoint_every: 9min"))
    assert lamella("resume", str(run), LONGER).status == 0


def test_a_directory_in_the_place_of_a_checkpoint_is_refused(lamella: Lamella, run: Path) -> None:
    (run / "checkpoints" / "best.ckpt").unlink()
    (run / "checkpoints" / "best.ckpt").mkdir()
    error = refused(lamella, run, "resume", str(run), LONGER)
    assert error.startswith(f"error: {run}/checkpoints/best.ckpt: this is a directory, where the run saves")


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_read_is_not_taken_for_damaged(run: Path) -> None:
    last = run / "checkpoints" / "last.ckpt"
    last.chmod(0)
    before = (run / "run.json").read_text()
    as_others = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"] if os.geteuid() == 0 else []
    command = [*as_others, sys.executable, "-m", "lamella", "resume", str(run), LONGER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {last}: cannot be read (Permission denied);\n  make it readable, or delete")
    assert (run / "run.json").read_text() == before


def test_an_environment_of_a_later_version_is_no_change(lamella: Lamella, run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    record["environment"]["driver"] = "1.2"
    (run / "run.json").write_text(json.dumps(record))
    result = lamella("resume", str(run), LONGER)
    assert result.status == 0, result.err
    assert "driver" not in result.out
    assert json.loads((run / "run.json").read_text())["inexact"] == []


@pytest.mark.parametrize(("key", "line"), [("name", "name: "), ("sweep.name", "sweep: {name: ")])
def test_a_name_with_a_zero_byte_is_refused(lamella: Lamella, key: str, line: str) -> None:
    Path("conf/experiment").mkdir(parents=True)
    end = "}" if "{" in line else ""
    Path("conf/experiment/x.yaml").write_text(f'# @package _global_\n{line}"a\\0b"{end}\n')
    result = lamella("train", *(["-m", "seed=0,1"] if key == "sweep.name" else []), "experiment=x")
    assert result.status == 2
    assert result.err.startswith(f"error: {key} is 'a\\x00b'; it names a directory")
    assert not Path("outputs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "pt2", "safetensors"])
def test_an_export_to_a_full_disk_ends_in_one_line(trained: Path, tmp_path: Path, form: str) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    before = contents(run)
    program = script(tmp_path, LIMIT.format(20_000), "export", "run", "--format", form)
    assert program.wait() in (1, 2)
    assert program.err.startswith("error: ")
    assert "File too large" in program.err
    assert program.err.count("\n") == 1
    assert contents(run) == before


@pytest.mark.slow
def test_a_killed_export_leaves_nothing_in_the_run(trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    before = contents(run)
    wait = (
        "import pathlib, time, torch\n"
        "def export(*given, **more):\n    pathlib.Path('begun').touch()\n    time.sleep(999)\n"
        "torch.export.export = export"
    )
    program = script(tmp_path, wait, "export", "run", "--format", "pt2")
    wait_until((tmp_path / "begun").exists, 60, program)
    program.kill()
    program.wait()
    assert contents(run) == before
    assert sorted(path.name for path in run.iterdir() if path.is_dir()) == ["checkpoints"]


def test_a_file_may_have_the_longest_name(lamella: Lamella, run: Path) -> None:
    out = "x" * 250 + ".json"
    assert lamella("eval", str(run), "--out", out).status == 0
    assert Path(out).is_file()


def test_a_plot_on_a_full_disk_leaves_no_file(trained: Path, tmp_path: Path) -> None:
    arguments = ("compare", str(trained), str(trained), "--plot", "curves.png")
    program = script(tmp_path, LIMIT.format(1000), *arguments)
    assert program.wait() == 2
    assert program.err == "error: --plot curves.png: [Errno 27] File too large\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["script.py"]


@pytest.mark.slow
def test_failures_are_listed_even_if_the_leaderboard_cannot_be_written(lamella: Lamella) -> None:
    line = ("train", "-m", "optimizer.lr=1e-3,1e30", "trainer.max_epochs=1", "visuals=none", "sweep.name=s")
    sweep = Path("outputs/default/s")
    assert lamella(*line).status == 1
    (sweep / "leaderboard.json").unlink()
    (sweep / "leaderboard.json").mkdir()
    result = lamella(*line)
    assert result.status == 1
    assert "\n1 failed\n" in result.out
    reason = "the leaderboard cannot be written there (Is a directory)"
    assert f"error: {sweep}: {reason}; to see it again: lamella runs {sweep}\n" in result.err
