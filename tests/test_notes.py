"""`lamella note` and `lamella tag`: what people write beside the record of a run or of a sweep."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import Lamella, contents
from hypothesis import given
from hypothesis import strategies as st
from programs import Program, wait_until
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import lamella as package
from lamella.runs.files import NOTES, NOTES_EVENTS, RUN_FILES
from lamella.runs.notes import Change, Notes


def tensorboard_texts(path: Path, name: str) -> list[str]:
    events = EventAccumulator(str(path))
    events.Reload()
    return [event.tensor_proto.string_val[0].decode() for event in events.Tensors(name)]


def test_notes_and_tags_of_a_run(lamella: Lamella, run: Path) -> None:
    before = contents(run)
    assert lamella("note", str(run), "the learning rate is too high").out == f"{run}: noted\n"
    assert lamella("note", str(run), "- with a\nsecond line").status == 0
    assert lamella("tag", str(run), "good", "baseline", "good").out == f"{run}: good baseline\n"
    assert lamella("tag", str(run), "v1.2", "-good").out == f"{run}: baseline v1.2\n"
    tags, first, second, third = lamella("note", str(run)).out.splitlines()
    assert tags == "tags: baseline v1.2"
    assert first.endswith("  the learning rate is too high")
    assert second.endswith("  - with a")
    assert third == " " * 18 + "second line"
    assert {
        name: text for name, text in contents(run).items() if Path(name).name not in (NOTES, NOTES_EVENTS)
    } == before
    assert tensorboard_texts(run, "note") == ["the learning rate is too high", "- with a\nsecond line"]
    assert tensorboard_texts(run, "tags") == ["good baseline", "baseline v1.2"]
    events = EventAccumulator(str(run))
    events.Reload()
    assert "val/loss" in events.Tags()["scalars"]  # the file of the notes hides none of the run's


def test_lists_show_notes_and_tags_and_filter_by_them(lamella: Lamella, trained: Path) -> None:
    paths = [str(shutil.copytree(trained, f"outputs/tuned/run{number}")) for number in range(3)]
    assert "tags" not in lamella("runs").out.split("\n")[0].split()
    assert "notes" not in lamella("compare", *paths).out
    assert lamella("tag", *paths[:2], "good").out == f"{paths[0]}: good\n{paths[1]}: good\n"
    lamella("tag", paths[2], "not-good")
    lamella("note", paths[1], "a long story about weights")
    head, *rows = lamella("runs").out.splitlines()
    assert head.split()[:4] == ["name", "overrides", "tags", "note"]
    assert [("good" in row, "a long story" in row) for row in rows] == [(True, False), (True, True), (True, False)]
    assert [str(run.path) for run in package.runs(filter="tags ~ good")] == paths[:2]
    assert [str(run.path) for run in package.runs().where("tags ~ good and not note ~ 'Long story'")] == paths[:1]
    [row] = json.loads(lamella("runs", "--json", "--filter", "note ~ weights").out)
    assert (row["tags"], row["notes"][0]["text"]) == (["good"], "a long story about weights")
    assert package.runs().frame()["tags"].tolist() == ["good", "good", "not-good"]
    shown = lamella("compare", *paths).out
    assert shown.index("A  ") < shown.index("notes  A") < shown.index("config: the same")
    assert "a long story about weights" in shown


@pytest.mark.slow
def test_notes_of_a_sweep_head_its_leaderboard(lamella: Lamella) -> None:
    assert lamella("train", "-m", "seed=1,2", "sweep.name=two", "trainer=debug", "visuals=none").status == 0
    sweep = "outputs/default/two"
    assert lamella("tag", sweep, "paper").status == 0
    assert lamella("note", sweep, "table 2").status == 0
    first, second, *board = lamella("runs", sweep).out.splitlines()
    assert (first, second[-9:]) == ("tags: paper", "  table 2")
    assert board[0].split()[0] == "n"
    # What is said of a sweep is said of its runs.
    assert len(package.runs(filter="tags ~ paper and note ~ 'table 2'")) == 2
    assert "there is nothing to move" in lamella("clean", sweep, "--filter", "not tags ~ paper", "--yes").out
    result = lamella("tag", *map(str, sorted(Path(sweep).iterdir())))  # as a pattern of the shell gives
    assert result.out == f"{sweep}/seed=1: no tags\n{sweep}/seed=2: no tags\n"
    assert result.err == f"left out: 6 paths, such as {sweep}/.lock, which is no run and no sweep\n"


@pytest.mark.slow(15)
def test_notes_of_a_run_in_training_survive_its_death(lamella: Lamella) -> None:
    training = Program(Path(), "train", "trainer.max_epochs=100000", "visuals=none")
    wait_until(lambda: list(Path("outputs/default").glob("*/checkpoints/last.ckpt")), 60, training)
    [path] = Path("outputs/default").iterdir()
    writers = [Program(Path(), "note", str(path), f"note {number}") for number in range(4)]
    assert [writer.wait() for writer in writers] == [0] * 4
    training.kill()
    training.wait()
    (path / NOTES).write_text((path / NOTES).read_text() + '{"time": "2026-')  # was being written when the machine died
    assert lamella("tag", str(path), "dead").status == 0
    epochs = len((path / "metrics.jsonl").read_text().splitlines())
    assert lamella("resume", str(path), f"trainer.max_epochs={epochs + 2}").status == 0
    assert lamella("tag", str(path)).out == f"{path}: dead\n"
    assert sorted(line[-6:] for line in lamella("note", str(path)).out.splitlines()[1:]) == [
        f"note {number}" for number in range(4)
    ]
    assert len(tensorboard_texts(path, "note")) == 4


def test_a_word_that_is_also_a_directory(lamella: Lamella, run: Path) -> None:
    Path("data/raw").mkdir(parents=True)
    assert lamella("tag", str(run), "data").out == f"{run}: data\n"
    assert lamella("note", str(run), "data").out == f"{run}: noted\n"
    assert lamella("note", str(run)).out.splitlines()[1].endswith("  data")
    for line in (("tag", str(run), "data/raw", "good"), ("note", str(run), "data/raw")):
        result = lamella(*line)
        assert (result.status, result.err[:49]) == (2, "error: data/raw is not a run directory: it holds ")
    assert lamella("tag", str(run)).out == f"{run}: data\n"


def test_edited_notes_are_those_that_tensorboard_shows(lamella: Lamella, run: Path) -> None:
    lamella("note", str(run), "a tpyo")
    (run / NOTES).write_text((run / NOTES).read_text().replace("tpyo", "typo"))
    lamella("tag", str(run), "good")
    assert tensorboard_texts(run, "note") == ["a typo"]


def test_wrong_requests(lamella: Lamella, run: Path) -> None:
    for arguments, text in {
        ("note",): "error: lamella note takes RUN; `lamella note outputs/NAME/RUN` names a run",
        ("note", "outputs/default/rum"): "error: outputs/default/rum: there is no such run",
        ("note", str(run), "outputs/default/rum"): "error: outputs/default/rum: there is no such run",
        ("note", "nowhere", "a text"): "error: nowhere is not there; a run is a directory",
        ("note", str(run), "  "): "error: the note is empty",
        ("note", str(run), "--delete"): "error: --delete: there is no such option",
        ("note", "outputs", "a text"): "error: outputs is not a run directory, it holds runs",
        ("tag", "nowhere"): "error: nowhere: there is no such run; `lamella tag outputs/NAME/RUN nowhere` adds a tag",
        ("tag", str(run), "two words"): "error: 'two words' is not a tag, which is a word of letters",
        ("tag", "good", str(run)): f"error: runs come before tags: lamella tag {run} good",
        ("note", "too small", str(run)): f'error: the run comes before the text: lamella note {run} "too small"',
        (
            "note",
            str(run),
            "two",
            "words",
        ): f'error: a text of several words stands in quotes: lamella note {run} "two w',
        ("tag", str(run), "outputs/default/rum"): "error: 'outputs/default/rum' is not a tag",
        ("tag", str(run), "-good"): "error: -good: there is no such tag to remove; there are none",
        ("tag", str(run), "--good"): "error: --good: there is no such option",
    }.items():
        result = lamella(*arguments)
        assert (result.status, result.err[: len(text)]) == (2, text)
    assert not (run / NOTES).exists()
    assert lamella("tag", "--help").out.startswith("usage: lamella tag [-h] RUN [RUN ...]")


def test_damaged_notes_are_said_and_kept(lamella: Lamella, run: Path) -> None:
    (run / NOTES).write_text('{"time": "2026-11-01T00:00:00+00:00", "note": "a"}\n{"tags": 1}\n')
    before = contents(run)
    for command in (("note", str(run), "b c"), ("note", str(run)), ("tag", str(run), "good")):
        result = lamella(*command)
        assert (result.status, result.err) == (2, f"error: {run}/{NOTES} is damaged: line 2: it has no time\n")
    assert contents(run) == before
    result = lamella("runs")
    assert (result.status, len(result.out.splitlines())) == (0, 2)
    assert "notes.jsonl is damaged: line 2" in result.err
    assert {NOTES, NOTES_EVENTS} <= set(RUN_FILES)


words = st.sampled_from(["good", "bad", "v1"])


@given(st.lists(st.tuples(st.lists(words, max_size=3), st.lists(words, max_size=2)), max_size=6))
def test_tags_are_a_set_in_the_order_of_their_addition(changes: list[tuple[list[str], list[str]]]) -> None:
    lines: list[Change] = [{"time": "2026-11-01T00:00:00", "add": add, "remove": remove} for add, remove in changes]
    expected = dict[str, None]()
    for add, remove in changes:
        expected = {tag: None for tag in expected if tag not in remove} | dict.fromkeys(add)
    assert Notes.of(lines).tags == list(expected)
