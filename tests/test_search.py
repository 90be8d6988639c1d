"""A search with Optuna: trials up to a total, learnt from, ended early, and gone on with after a kill."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import kill
import programs
import pytest
from conftest import Lamella, Project, contents
from programs import Program, wait_until
from test_sweep import SWEEP, leaderboard, members, plan, record

RATE = "optimizer.lr=tag(log,interval(1e-4,1e-1))"
WIDTH = "network.width=choice(8,16,32)"
SEARCH = ("train", "-m", "hydra/sweeper=optuna", RATE, WIDTH, "sweep.name=s")
BRIEF = ("trainer.max_epochs=1", "visuals=none")


def study(sweep: Path = SWEEP) -> list[dict[str, Any]]:
    """The trials that the search has kept, by number: their state, values, parameters."""
    import optuna

    found = optuna.load_study(study_name="sweep", storage=f"sqlite:///{(sweep / 'study.db').absolute()}")
    return [
        {"state": trial.state.name, "values": trial.values, "params": trial.params, "attrs": trial.user_attrs}
        for trial in found.trials
    ]


@pytest.mark.slow
def test_trials_up_to_the_total(lamella: Lamella) -> None:
    result = lamella(*SEARCH, *BRIEF, "hydra.sweeper.n_trials=5")
    assert result.status == 0, result.err
    trials = study()
    assert [trial["state"] for trial in trials] == ["COMPLETE"] * 5
    scores = {name: record(SWEEP / name)["metrics"]["val/accuracy"] for name in members()}
    assert {value for trial in trials for value in trial["values"]} == set(scores.values())
    for config in plan():
        assert 1e-4 <= config["optimizer"]["lr"] <= 1e-1
        assert config["network"]["width"] in (8, 16, 32)
    assert re.search(r"importance for val/accuracy\n  (optimizer\.lr|network\.width) +[01]\.\d\d", result.out)
    before = {name: contents(SWEEP / name) for name in members()}
    assert lamella(*SEARCH, *BRIEF, "hydra.sweeper.n_trials=5").status == 0
    assert {name: contents(SWEEP / name) for name in members()} == before
    assert lamella(*SEARCH, *BRIEF, "hydra.sweeper.n_trials=7").status == 0
    assert len(study()) == 7
    shutil.rmtree(SWEEP / members()[0])
    assert lamella("runs", str(SWEEP)).out.count(" planned ") == 1


@pytest.mark.slow(20)
def test_one_at_a_time_the_choices_depend_on_the_seed_alone(tmp_path: Path) -> None:
    """Killed and gone on with, the same trials: what a sampler draws has no state to lose."""
    line = (
        *SEARCH,
        "trainer.max_epochs=3",
        "hydra.sweeper.n_trials=6",
        "hydra.launcher.slots=1",
        "network.dropout=0.2",
        "visuals=none",
    )
    reference, other = tmp_path / "reference", tmp_path / "other"
    programs.run(reference, *line)
    for number in (2, 4):
        process = Program(other, *line)

        def enough(number: int = number) -> bool:
            return len(members(other / SWEEP)) >= number

        wait_until(enough, 120, process)
        process.kill_group()
        process.wait()
    programs.run(other, "resume", str(SWEEP))
    assert [trial["params"] for trial in study(other / SWEEP)] == [
        trial["params"] for trial in study(reference / SWEEP)
    ]
    assert len(study(other / SWEEP)) == 6
    assert {str(trial["state"]) for trial in study(other / SWEEP)} == {"COMPLETE"}
    for name in members(reference / SWEEP):
        assert kill.differences(reference / SWEEP / name, other / SWEEP / name) == []


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["random", "cmaes", "grid"])
def test_samplers(lamella: Lamella, sampler: str) -> None:
    values = ("network.width=range(8,25,8)", "optimizer.lr=choice(1e-2,1e-3)")
    options = (f"hydra.sweeper.sampler={sampler}", "hydra.sweeper.n_trials=6", "sweep.name=s")
    result = lamella("train", "-m", "hydra/sweeper=optuna", *values, *options, *BRIEF)
    assert result.status == 0, result.err
    assert {config["network"]["width"] for config in plan()} <= {8, 16, 24}
    assert [trial["state"] for trial in study()] == ["COMPLETE"] * 6
    if sampler == "grid":
        assert len(members()) == 6


@pytest.mark.slow
def test_whole_numbers_and_steps(lamella: Lamella) -> None:
    line = (
        "train",
        "-m",
        "hydra/sweeper=optuna",
        "network.width=int(interval(4,40))",
        "network.dropout=range(0,0.5,0.25)",
    )
    assert lamella(*line, *BRIEF, "hydra.sweeper.n_trials=4", "sweep.name=s").status == 0
    for config in plan():
        assert isinstance(config["network"]["width"], int)
        assert config["network"]["dropout"] in (0, 0.0, 0.25)


@pytest.mark.slow(20)
@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_what_will_not_be_the_best_is_ended(lamella: Lamella, pruner: str) -> None:
    short = ("trainer.max_epochs=5", "visuals=none")
    rates = "optimizer.lr=choice(1e-2,1e-5,1e-6,1e-7,2e-2,3e-2,1e-8,5e-3,2e-3,3e-3)"
    line = ("train", "-m", "hydra/sweeper=optuna", rates, f"hydra.sweeper.pruner={pruner}", "sweep.name=s")
    result = lamella(*line, "hydra.sweeper.sampler=grid", "hydra.sweeper.n_trials=10", *short)
    assert result.status == 0, result.err
    states = [trial["state"] for trial in study()]
    assert len(states) == 10
    if pruner == "median":  # which waits for five trials
        assert "PRUNED" in states
    for row in leaderboard():
        fields = record(Path(str(row["directory"])))
        assert fields["status"] == "finished"
        assert (fields["epochs"] == 5) == (row["status"] == "finished")
    pruned = [Path(str(row["directory"])) for row in leaderboard() if row["status"] == "pruned"]
    assert len(pruned) == states.count("PRUNED")
    if pruned:
        result = lamella("reproduce", str(pruned[0]))
        assert result.status == 0, result.out


@pytest.mark.slow
def test_several_objectives(lamella: Lamella) -> None:
    result = lamella(*SEARCH, *BRIEF, "hydra.sweeper.n_trials=6", "sweep.objectives=[val/accuracy,parameters]")
    assert result.status == 0, result.err
    assert all(len(trial["values"]) == 2 for trial in study())
    rows = leaderboard()
    assert any(row["front"] for row in rows)
    smallest = min(rows, key=lambda row: (row["parameters"], -row["val/accuracy"]))
    assert smallest["front"]


@pytest.mark.slow
def test_a_trial_that_fails_is_tried_again(lamella: Lamella, project: Project) -> None:
    project(
        mine=(
            "from pathlib import Path\nfrom pytorch_lightning import Callback\n\n\nclass Sometimes(Callback):\n"
            "    def on_train_epoch_start(self, trainer, module):\n"
            "        if not Path('mended').exists():\n            raise OSError('not yet')\n"
        )
    )
    line = (*SEARCH, *BRIEF, "hydra.sweeper.n_trials=2", "+trainer.callbacks=[{_target_: mine.Sometimes}]")
    result = lamella(*line)
    assert result.status == 1
    assert result.out.count("failed: OSError: not yet") == 2
    assert [trial["state"] for trial in study()] == ["FAIL", "FAIL"]
    Path("mended").touch()
    assert lamella(*line).status == 0
    assert [trial["state"] for trial in study()] == ["FAIL", "FAIL", "COMPLETE", "COMPLETE"]
    assert len(members()) == 2
    assert lamella(*line, "hydra.sweeper.n_trials=3").status == 0
    assert len(members()) == 3


@pytest.mark.slow
def test_later_trials_are_composed_from_the_same_files(lamella: Lamella) -> None:
    Path("conf/network").mkdir(parents=True)
    mine = Path("conf/network/mine.yaml")
    mine.write_text(
        "width: 8\nlayers: [Flatten, {Linear: '${network.width}'}, ReLU, {Linear: '${data.num_classes}'}]\n"
    )
    line = ("train", "-m", "hydra/sweeper=optuna", RATE, "network=mine", *BRIEF, "sweep.name=s")
    assert lamella(*line, "hydra.sweeper.n_trials=2").status == 0
    mine.write_text(
        "width: 9\nlayers: [Flatten, {Linear: '${network.width}'}, ReLU, {Linear: '${data.num_classes}'}]\n"
    )
    assert lamella(*line, "hydra.sweeper.n_trials=3").status == 0
    shutil.rmtree("conf")
    fields = json.loads((SWEEP / "sweep.json").read_text())
    fields["arguments"] = [text.replace("n_trials=3", "n_trials=4") for text in fields["arguments"]]
    (SWEEP / "sweep.json").write_text(json.dumps(fields))
    assert lamella("resume", str(SWEEP)).status == 0
    assert [config["network"]["width"] for config in plan()] == [8] * 4


REFUSED = {
    ("hydra.sweeper.n_trials=0",): "error: hydra.sweeper.n_trials is 0; it takes a whole number from 1 on",
    ("hydra.sweeper.sampler=tpee",): "error: hydra.sweeper.sampler is 'tpee'; did you mean tpe?",
    ("hydra.sweeper.pruner=medium",): "error: hydra.sweeper.pruner is 'medium'; known: hyperband, median, null",
    ("hydra.sweeper.seed=-1",): "error: hydra.sweeper.seed is -1; it takes a whole number from 0 on",
    ("+hydra.sweeper.trials=3",): "error: hydra.sweeper.trials: there is no such key; did you mean n_trials?",
    ("hydra.sweeper.pruner=median", "sweep.objectives=[val/loss,seconds]"): "error: hydra.sweeper.pruner: with several",
    ("hydra.sweeper.pruner=median", "sweep.objectives=[seconds]"): "error: hydra.sweeper.pruner: seconds is not known",
    ("sweep.zip=[optimizer.lr,network.width]",): "error: sweep.zip: a search chooses each value by itself",
    ("hydra.sweeper.sampler=grid",): f"error: {RATE}: a grid takes choice(…) or range(…)",
    ("network.depth=tag(log,interval(0,1))",): "error: network.depth=tag(log,interval(0,1)): ",
    ("data.batch_size=choice(8,abc)",): "error: data.batch_size is 'abc'; Data takes int",
}


@pytest.mark.slow
@pytest.mark.parametrize("options", REFUSED, ids=" ".join)
def test_what_is_refused(lamella: Lamella, options: tuple[str, ...]) -> None:
    result = lamella(*SEARCH, *BRIEF, *options)
    assert result.status == 2
    assert result.err.startswith(REFUSED[options])
    assert "Traceback" not in result.err
    assert not list(Path().rglob("run.json"))


GROUPED = """
name: Grouped
layers: [{Conv2d: [12, 1]}, {Conv2d: {out_channels: 12, kernel_size: 1, groups: "${network.groups}"}}, Flatten,
  {Linear: "${data.num_classes}"}]
groups: 1
"""
WITHOUT_TRIALS = {
    ("data.batch_size=interval(16,64)",): "for whole numbers write 'data.batch_size=int(interval(16,64))'\n",
    ("data.batch_size=tag(log,interval(16,64))",): "write 'data.batch_size=int(tag(log,interval(16,64)))'\n",
    ("optimizer.lr=interval(0,1)", "hydra.sweeper.pruner=median", "sweep.objectives=[seconds]"): "is not known before",
    # The ends of this range are checked first, and both divide 12.
    ("network=grouped", "network.groups=int(interval(4,12))"): "error: the search ends, because no trial can be run;",
}


@pytest.mark.slow
@pytest.mark.parametrize("options", WITHOUT_TRIALS, ids=" ".join)
def test_a_search_that_cannot_start_leaves_nothing(lamella: Lamella, options: tuple[str, ...]) -> None:
    Path("conf/network").mkdir(parents=True)
    Path("conf/network/grouped.yaml").write_text(GROUPED)
    result = lamella("train", "-m", "hydra/sweeper=optuna", *options, "sweep.name=s", "hydra.sweeper.n_trials=2")
    assert result.status == 2
    assert WITHOUT_TRIALS[options] in result.err
    assert not Path("outputs").exists()


@pytest.mark.slow
def test_other_values_are_another_search(lamella: Lamella) -> None:
    assert lamella(*SEARCH, *BRIEF, "hydra.sweeper.n_trials=1").status == 0
    result = lamella(*SEARCH, "trainer.max_epochs=2", "hydra.sweeper.n_trials=2")
    assert result.status == 2
    assert result.err.startswith(f"error: {SWEEP} is another sweep, ")
    result = lamella("train", "-m", "seed=0,1", "sweep.name=s")
    assert result.err.startswith(f"error: {SWEEP} is a search; choose another sweep.name\n")
    result = lamella("train", "-m", "hydra/sweeper=optuna", "seed=1", "sweep.name=t")
    assert result.err.startswith("error: a search takes values to choose from, as ")
    (SWEEP / "study.db").write_text("damaged")
    result = lamella(*SEARCH, *BRIEF, "hydra.sweeper.n_trials=2")
    assert result.status == 2
    assert result.err.startswith(f"error: {SWEEP / 'study.db'}: the results of the search cannot be kept there: ")
    assert "is not a database" in result.err
    shutil.move(SWEEP, "elsewhere")
    result = lamella("resume", "elsewhere")
    assert result.err.startswith(
        "error: elsewhere: a search resumes only in the place where it was started: outputs/default/s"
    )


def test_without_optuna(lamella: Lamella, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    result = lamella(*SEARCH, *BRIEF)
    assert result.status == 2
    assert result.err.startswith("error: hydra/sweeper=optuna needs optuna; uv pip install -e '.[optuna]'")
