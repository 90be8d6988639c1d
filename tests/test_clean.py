"""`lamella clean`: what it moves to the trash, what it leaves, and that nothing is lost on the way."""

import io
import json
import os
import pty
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from conftest import Lamella, contents
from programs import Program, wait_until

import lamella as package
from lamella.data import cache
from lamella.runs.cleaning import IMAGES
from lamella.runs.names import CACHE
from lamella.runs.trash import HIDDEN, TRASH

OUT = Path("outputs")
HINT = "; `lamella clean outputs --restore` brings back what the last `lamella clean` has moved\n"


@pytest.fixture
def four(lamella: Lamella, trained: Path) -> list[Path]:
    """Four runs of different ages, the second one failed."""
    paths = [Path(shutil.copytree(trained, OUT / f"default/run{number}")) for number in range(4)]
    for number, path in enumerate(paths):
        record(path, finished=f"20{20 + number}-06-01T00:00:00+00:00", status="failed" if number == 1 else "finished")
        (path / "checkpoints/epoch-001.ckpt").write_bytes(b"of an epoch")
    return paths


def record(path: Path, **changes: object) -> None:
    fields = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps(fields | changes))


def listed() -> list[str]:
    return [str(run.path) for run in package.runs()]


def state() -> dict[str, bytes]:
    """Every file in the outputs outside of the trash."""
    return {name: text for name, text in contents(OUT).items() if TRASH not in Path(name).parts}


def test_whole_runs_go_and_come_back(lamella: Lamella, four: list[Path]) -> None:
    lamella("note", str(four[1]), "a note")
    before, names = state(), list(map(str, four))
    result = lamella("clean", "--filter", "status=failed", "--yes")
    assert result.status == 0, result.err
    first, second, last = result.out.splitlines()
    assert first.startswith("to outputs/.trash would go 1 run, as a whole: ")
    assert second.startswith("  outputs/default/run1  ")
    assert last.startswith("moved; `lamella clean --restore` brings it back")
    assert listed() == [names[0], *names[2:]]
    assert lamella("clean", "--older", "30d", "--yes").status == 0
    assert listed() == []
    assert lamella("runs").out == "no runs in outputs\n"
    trash = OUT / TRASH
    assert len(list(trash.rglob("run.json"))) == 4
    assert not list(trash.rglob("*tfevents*"))  # TensorBoard would show them
    assert list(trash.rglob(f"*{HIDDEN}*"))
    assert lamella("clean", "--restore").out.splitlines() == [f"brought back: {names[n]}" for n in (0, 2, 3)]
    assert lamella("clean", "--restore").out.splitlines() == [f"brought back: {names[1]}"]
    assert lamella("clean", "--restore").out == "there is nothing to bring back in outputs/.trash\n"
    assert state() == before


def test_the_age_of_a_killed_run_is_that_of_its_last_epoch(lamella: Lamella, four: list[Path]) -> None:
    for path in four:
        record(path, started="2020-06-01T00:00:00+00:00", finished=None, status="running")
    for file in (four[0] / "run.json", four[0] / "metrics.jsonl", four[1] / "run.json"):
        os.utime(file, (1.6e9, 1.6e9))
    assert lamella("clean", "--older", "30d", "--yes").status == 0
    assert listed() == list(map(str, four[1:]))
    assert lamella("clean", "--older", "0d", "--yes").status == 0
    assert listed() == []


@pytest.mark.parametrize(
    ("keep", "left"), {"best": ["best.ckpt"], "last": ["last.ckpt"], "none": []}.items(), ids=lambda keep: str(keep)
)
def test_checkpoints_alone(lamella: Lamella, four: list[Path], keep: str, left: list[str]) -> None:
    before = state()
    size = sum(path.stat().st_size for path in four[0].glob("checkpoints/*.ckpt") if path.name not in left)
    linked = (four[0] / "checkpoints/best.ckpt").samefile(four[0] / "checkpoints/last.ckpt")
    result = lamella("clean", str(four[0]), "--keep", keep, "--yes")
    assert result.status == 0, result.err
    assert not linked
    assert f"{size / 1e6:.3g} MB" in result.out.splitlines()[0]
    assert sorted(path.name for path in four[0].glob("checkpoints/*")) == left
    assert len(listed()) == 4
    assert lamella("clean", "--restore").status == 0
    assert state() == before


def test_a_file_of_two_names_is_freed_with_both(lamella: Lamella, run: Path) -> None:
    checkpoints = run / "checkpoints"
    (checkpoints / "last.ckpt").unlink()
    (checkpoints / "previous.ckpt").unlink()
    (checkpoints / "last.ckpt").hardlink_to(checkpoints / "best.ckpt")
    assert lamella("clean", "--keep", "best", "--yes").out.startswith(
        "to outputs/.trash would go the checkpoints of 1 run, all but best.ckpt: 0 MB\n"
    )


def test_a_run_does_not_lose_its_only_checkpoint(lamella: Lamella, four: list[Path]) -> None:
    (four[2] / "checkpoints/best.ckpt").unlink()
    result = lamella("clean", "--keep", "best", "--yes")
    assert "kept: outputs/default/run2: it has no best.ckpt to keep\n" in result.out
    assert sorted(path.name for path in four[2].glob("checkpoints/*")) == [
        "epoch-001.ckpt",
        "last.ckpt",
        "previous.ckpt",
    ]
    assert (
        lamella("clean", str(four[0]), "--keep", "best", "--yes").out
        == "there is nothing to move in outputs/default/run0\n"
    )


def test_runs_that_others_started_from_stay(
    lamella: Lamella, four: list[Path], trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(four[1], weights={"from": str(four[0]), "checkpoint": "best", "sha256": "0"})
    record(four[2], weights={"from": str((four[1] / "checkpoints/best.ckpt").absolute()), "sha256": "0"})
    record(four[3], reproduces=str(four[2]))
    result = lamella("clean", "--filter", "not directory ~ run3", "--yes")
    assert sorted(result.out.splitlines()) == [
        *(f"kept: outputs/default/run{n}: outputs/default/run{n + 1} has started from it" for n in range(3)),
        "there is nothing to move in outputs",
    ]
    assert len(listed()) == 4
    outputs = str(OUT.absolute())
    monkeypatch.chdir(trained)  # the recorded paths are relative to another directory
    result = lamella("clean", outputs, "--filter", "not directory ~ run3", "--yes")
    monkeypatch.chdir(Path(outputs).parent)
    assert result.out.count("has started from it") == 3
    assert len(listed()) == 4
    result = lamella("clean", "--keep", "none", "--yes")
    assert result.out.count("has started from it") == 3
    assert lamella("clean", "outputs", "--yes").status == 0  # all of them together
    assert listed() == []


@pytest.mark.slow
def test_the_runs_of_a_sweep_go_together(lamella: Lamella) -> None:
    line = ("train", "-m", "seed=1,2", "sweep.name=two", "trainer=debug", "visuals=none", "hydra/launcher=basic")
    assert lamella(*line).status == 0
    before = state()
    result = lamella("clean", "--filter", "seed=1", "--yes")
    reason = "the sweep outputs/default/two would train it again; select all runs of the sweep, or use --keep"
    assert result.out == f"kept: outputs/default/two/seed=1: {reason}\nthere is nothing to move in outputs\n"
    record(OUT / "default/two/seed=2", status="interrupted")
    result = lamella("clean", "--keep", "none", "--yes")
    assert (
        "kept: outputs/default/two/seed=2: the sweep outputs/default/two goes on from its checkpoints\n" in result.out
    )
    assert lamella("clean", "--restore").status == 0
    record(OUT / "default/two/seed=2", status="finished")
    assert lamella("clean", "outputs/default/two", "--yes").status == 0
    assert not (OUT / "default/two").exists()
    for path in ("outputs/default/two", "outputs/default/two/seed=1"):
        result = lamella("resume", path)
        assert (result.status, result.err) == (2, f"error: {path} is not there{HINT}")
    assert lamella("clean", "--restore").out == "brought back: outputs/default/two\n"
    assert {name: text for name, text in state().items() if "run.json" not in name} == {
        name: text for name, text in before.items() if "run.json" not in name
    }
    assert "2 jobs, 2 of them finished" in lamella(*line).out


def test_something_new_in_its_place_is_not_overwritten(lamella: Lamella, four: list[Path]) -> None:
    lamella("clean", "outputs/default", "--yes")
    new = OUT / "default/run2"
    new.mkdir()
    result = lamella("clean", "--restore")
    assert result.status == 2
    assert result.err.startswith("error: outputs/default/run2: something new lies there; move it away")
    assert not four[0].exists()
    new.rmdir()
    assert lamella("clean", "--restore").status == 0
    assert len(listed()) == 4


def test_images_that_were_decoded_again_are_not_overwritten(lamella: Lamella, four: list[Path]) -> None:
    assert lamella("clean", str(four[0]), "--yes").status == 0
    assert lamella("resume", str(four[0])).err == f"error: {four[0]} is not there{HINT}"
    pixels = OUT / CACHE / "a.uint8"
    pixels.parent.mkdir()
    pixels.write_bytes(b"0")
    assert lamella("clean", "--cache", "--yes").status == 0
    pixels.write_bytes(b"0")
    result = lamella("clean", "--restore")
    batch = max((OUT / TRASH).glob("2*"))
    assert result.status == 2
    assert result.err.startswith(f"error: {pixels}: a run has decoded these images again; `rm -r {batch}` deletes the")
    shutil.rmtree(batch)
    assert lamella("clean", "--restore").out == f"brought back: {four[0]}\n"
    assert pixels.exists()


def test_the_trash_is_deleted_after_a_question(lamella: Lamella, four: list[Path]) -> None:
    lamella("clean", str(four[0]), "--yes")
    result = lamella("clean", "--empty")
    assert (result.status, result.err) == (
        2,
        "error: there is no terminal on which to ask; --yes does it without a question\n",
    )
    assert list((OUT / TRASH).rglob("run.json"))
    assert lamella("clean", "--empty", "--yes").out.startswith("deleted ")
    assert not list((OUT / TRASH).rglob("run.json"))
    assert lamella("clean", "--empty").out == "there is nothing in outputs/.trash\n"
    assert len(listed()) == 3


def test_the_sizes_are_shown_before_anything_is_selected(lamella: Lamella, four: list[Path]) -> None:
    result = lamella("clean")
    assert [line.split()[0] for line in result.out.splitlines()] == ["4", "their", "decoded", "trash"]
    assert result.status == 0
    assert len(listed()) == 4
    assert lamella("clean", "outputs").err.startswith("error: there is no terminal on which to ask")
    assert len(listed()) == 4


REFUSED = {
    ("--older", "30"): "error: lamella clean: argument --older: '30' is no age; write a number and h, d or w, as 30d",
    ("--keep", "bets"): "error: lamella clean: argument --keep: invalid choice: 'bets'",
    ("--cache", "--older", "3d"): "error: lamella clean: --cache and --older do not go together",
    ("--restore", "--empty"): "error: lamella clean: --restore and --empty do not go together",
    ("--filter", "statu=failed"): "error: no run has a key 'statu'; did you mean status",
    ("--filter", ""): "error: a condition is missing here",
    ("nowhere",): "error: nowhere is not a directory; `lamella train` makes outputs/",
}


def test_wrong_requests(lamella: Lamella, run: Path) -> None:
    for arguments, text in REFUSED.items():
        result = lamella("clean", *arguments)
        assert (result.status, result.err[: len(text)]) == (2, text)
    assert not (OUT / TRASH).exists()


def test_a_manifest_leads_out_of_the_outputs(lamella: Lamella, four: list[Path]) -> None:
    lamella("clean", str(four[0]), "--yes")
    [manifest] = (OUT / TRASH).rglob("manifest.json")
    manifest.write_text(json.dumps({"format": 1, "paths": ["../elsewhere"]}))
    result = lamella("clean", "--restore")
    assert result.status == 2
    assert "manifest.json is damaged (a path leads out of the outputs)" in result.err


def test_resume_says_what_was_cleaned(lamella: Lamella, run: Path) -> None:
    assert lamella("clean", str(run), "--keep", "none", "--yes").status == 0
    result = lamella("resume", str(run), "trainer.max_epochs=3")
    assert result.status == 2
    assert result.err.endswith(f"its checkpoints are gone, it cannot go on; `lamella train` begins a new run{HINT}")
    result = lamella("eval", str(run))
    assert (result.status, result.err.endswith(f"there is no such checkpoint{HINT}")) == (2, True)
    assert lamella("clean", "--restore").status == 0
    assert lamella("clean", str(run), "--keep", "best", "--yes").status == 0
    result = lamella("resume", str(run), "trainer.max_epochs=3")
    assert result.status == 0, result.err
    assert f"{run} has no last.ckpt any more: it goes on from an earlier checkpoint{HINT}" in result.out
    assert lamella("clean", "--restore").err.startswith(f"error: {run}/checkpoints/last.ckpt: something new lies there")


@pytest.mark.slow(10)
def test_a_run_in_training_and_its_images_stay(lamella: Lamella, image_root: Path, trained: Path) -> None:
    assert cache.FOLDER == OUT / CACHE
    shutil.copytree(trained, OUT / "other/run")
    options = ("data.shape=[1,28,28]", "data.mean=0.5", "data.std=0.5", "data.cache=memmap", "visuals=none")
    line = ("train", "data=image_folder", f"data.root={image_root}", "trainer.max_epochs=100000", *options)
    training = Program(Path(), *line)
    wait_until(lambda: list(OUT.glob("default/*/checkpoints/last.ckpt")), 60, training)
    [pixels] = (OUT / CACHE).glob(IMAGES)
    assert str(OUT / CACHE) in lamella("clean").out
    assert f"kept: {pixels}: a run uses these images\n" in lamella("clean", "--cache", "--yes").out
    [alive] = OUT.glob("default/*")
    for keep in [[], ["--keep", "none"]]:
        assert f"kept: {alive}: it is in training\n" in lamella("clean", "outputs", *keep, "--yes").out
        assert lamella("clean", "--restore").status == 0
    assert training.poll() is None
    assert pixels.exists()
    training.kill()
    training.wait()
    assert lamella("clean", str(alive), "--yes").out.endswith("deletes it\n")
    assert listed() == ["outputs/other/run"]
    assert lamella("clean", "--cache", "--yes").status == 0
    assert not list((OUT / CACHE).iterdir())
    assert lamella("clean", "--restore").status == 0
    assert pixels.exists()


def whole(path: Path, names: Sequence[str]) -> bool:
    return sorted(file.name.replace(HIDDEN, "tfevents") for file in path.rglob("*") if file.is_file()) == names


def wait_for_runs(program: Program, enough: Callable[[int], bool]) -> None:
    """Wait until the program ends, or there are `enough` runs in their places, and kill it."""
    wait_until(lambda: program.poll() is not None or enough(len(list(OUT.glob("default/*")))), 60)
    program.kill()
    program.wait()


@pytest.mark.slow(10)
@pytest.mark.parametrize("left", [40, 25, 1])
def test_a_kill_at_any_moment_loses_nothing(lamella: Lamella, trained: Path, left: int) -> None:
    paths = [Path(shutil.copytree(trained, OUT / f"default/run{number:02}")) for number in range(40)]
    before, names = state(), sorted(file.name for file in trained.rglob("*") if file.is_file())
    wait_for_runs(Program(Path(), "clean", "outputs", "--yes"), lambda count: count < left)
    places = [*(path for path in paths if path.exists()), *(OUT / TRASH).glob("*/[0-9]*")]
    assert len(places) == 40
    assert all(whole(path, names) for path in places)
    wait_for_runs(Program(Path(), "clean", "--restore"), lambda count: count > left)
    places = [*(path for path in paths if path.exists()), *(OUT / TRASH).glob("*/[0-9]*")]
    assert len(places) == 40
    assert lamella("clean", "--restore").status == 0
    assert state() == before


def test_what_cannot_be_moved_is_said_and_the_rest_goes(
    lamella: Lamella, four: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state()
    gone = four[1] / "checkpoints/last.ckpt"

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

        def readline(self, size: int | None = -1, /) -> str:  # type: ignore[override]
            gone.unlink()
            return "y\n"

    monkeypatch.setattr(sys, "stdin", Terminal())
    result = lamella("clean", "outputs/default", "--keep", "best")
    assert result.status == 1
    assert f"kept: {gone}: it cannot be moved (No such file or directory)\n" in result.out
    assert result.out.splitlines()[-1].startswith("moved 10 of 12 items; `lamella clean --restore` brings it back")
    assert lamella("clean", "--restore").status == 0
    assert state() == {name: text for name, text in before.items() if name != str(gone)}


@pytest.mark.parametrize(("answer", "left"), [(b"\n", 4), (b"n\n", 4), (b"y\n", 0)])
def test_a_terminal_is_asked(
    lamella: Lamella, four: list[Path], monkeypatch: pytest.MonkeyPatch, answer: bytes, left: int
) -> None:
    master, slave = pty.openpty()
    os.write(master, answer)
    with os.fdopen(slave) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        result = lamella("clean", "outputs")
    os.close(master)
    assert result.status == 0
    assert "move this to the trash? [y/N] " in result.out
    assert ("nothing was moved\n" in result.out) == bool(left)
    assert len(listed()) == left
