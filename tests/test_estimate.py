"""What a sweep will take: estimated before it starts, kept, compared with a budget, and no change to the runs."""

import json
import re
import signal
from pathlib import Path
from typing import Any

import kill
import pytest
from conftest import Lamella, contents
from programs import Program, wait_until
from test_search import SEARCH
from test_sweep import SWEEP, members

SHORT = ("network=linear", "visuals=none", "device=cpu", "device.threads=1")
LINE = re.compile(
    r"^(about|at most) (\d+\.\d (?:s|min|h|d)) for (\d+) jobs?, 2 at a time, up to \d\S* MB of disk, "
    r"\d{3} MB of memory at the peak of each job$",
    re.M,
)


def estimate(sweep: Path = SWEEP) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((sweep / "sweep.json").read_text())["estimate"]
    return fields


@pytest.mark.slow
def test_an_estimate_is_printed_and_kept_and_changes_no_run(lamella: Lamella) -> None:
    line = ("train", "-m", "seed=0,1", *SHORT, "trainer.max_epochs=3", "hydra.launcher.slots=2")
    result = lamella(*line, "sweep.name=s", "sweep.measure=true")
    assert result.status == 0, result.err
    assert (found := LINE.search(result.out))
    assert found[1] == "about"
    fields = estimate()
    assert fields.keys() == {"jobs", "at_a_time", "seconds", "disk", "memory", "gpu_memory", "at_most", "took"}
    assert (fields["jobs"], fields["at_a_time"]) == (2, 2)
    kept = re.search(r"^took \d+\.\d s, estimated about \d+\.\d s for 2 jobs$", result.out, re.M)
    assert kept
    assert kept[0] in lamella("runs", str(SWEEP)).out
    used = {file.stat().st_ino: file.stat().st_size for file in SWEEP.glob("seed=*/**/*") if file.is_file()}
    assert sum(used.values()) * 0.8 < fields["disk"] < sum(used.values()) * 2
    assert not (SWEEP / ".estimate").exists()
    result = lamella(*line, "sweep.name=t")
    assert result.status == 0
    assert "took" not in result.out
    assert kill.differences(SWEEP / "seed=1", SWEEP.with_name("t") / "seed=1") == []


@pytest.mark.slow
def test_only_what_is_missing_counts(lamella: Lamella) -> None:
    line = ("train", "-m", *SHORT, "trainer.max_epochs=2", "sweep.name=s", "hydra.launcher.slots=2")
    assert lamella(*line, "seed=0,1").status == 0
    result = lamella(*line, "seed=0,1,2", "sweep.measure=true")
    assert "for 1 job, 1 at a time, up to" in result.out
    assert "measuring" not in result.out  # it is like those that have finished
    finished = contents(SWEEP)
    result = lamella(*line, "seed=0,1,2", "sweep.measure=true")
    assert result.status == 0
    assert "at a time, up to" not in result.out
    # A refused command leaves the sweep as it was.
    result = lamella(*line, "seed=range(100)", "sweep.budget=0.1s")
    assert result.status == 2
    assert "error: sweep.budget is 0.1 s, and the sweep takes about " in result.err
    assert "for 97 jobs, 2 at a time" in result.err
    assert re.search(r"^  write sweep\.budget=\d+min, fewer values or a smaller trainer\.max_epochs", result.err, re.M)
    left = {name: text for name, text in contents(SWEEP).items() if not name.endswith(".lock")}
    assert left == {name: text for name, text in finished.items() if not name.endswith(".lock")}


@pytest.mark.slow
def test_a_sweep_above_its_budget_leaves_nothing_behind(lamella: Lamella) -> None:
    line = ("train", "-m", "seed=0,1", *SHORT, "sweep.name=s")
    result = lamella(*line, "trainer.max_epochs=3000", "trainer.early_stopping=5", "sweep.budget=10s")
    result.check_refusal(
        "sweep.budget is 10.0 s, and the sweep takes at most ", "from the command line: sweep.budget=10s"
    )
    lamella(*line, "sweep.measure=true", "hydra/launcher=fused").check_refusal(
        "hydra/launcher=fused: what jobs take that are trained as one program is not estimated"
    )
    lamella(*line, "sweep.measure=false", "sweep.budget=1h").check_refusal(
        "sweep.budget: the sweep is not started, because nothing tells what it takes"
    )


@pytest.mark.slow
def test_jobs_that_cannot_be_measured(lamella: Lamella) -> None:
    line = ("train", "-m", "seed=0,1", "optimizer=sgd", "optimizer.lr=1e30", "sweep.name=s")
    result = lamella(*line, "sweep.measure=true")
    assert result.status == 1
    assert "note: what the sweep takes is not known: NonFiniteLoss: the loss is " in result.err
    assert "2 failed" in result.out


@pytest.mark.slow
def test_long_sweeps_are_measured_and_short_ones_are_not(lamella: Lamella, tmp_path: Path) -> None:
    line = ("train", "-m", *SHORT, "seed=range(9)", "hydra.launcher.slots=2")
    assert "measuring" not in lamella(*line, "trainer.max_epochs=1").out
    program = Program(tmp_path, *line, "trainer.max_epochs=5000", "sweep.name=s")
    wait_until(lambda: "measuring what 9 jobs will take" in program.out, 60, program)
    program.send_signal(signal.SIGINT)
    assert program.wait() == 130
    assert "interrupted before the first job of the sweep was started" in program.err
    assert not SWEEP.exists()
    program = Program(tmp_path, *line, "trainer.max_epochs=5000", "sweep.name=s")
    wait_until(lambda: LINE.search(program.out) and members(), 60, program)
    program.kill_group()
    assert estimate()["seconds"] > 60
    assert "took" not in estimate()


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ("trainer.max_epochs=null", "+trainer.max_steps=40", "+trainer.check_val_every_n_epoch=2"),
        (
            *("trainer.max_epochs=null", "+trainer.max_time='00:00:00:01'", "+trainer.val_check_interval=0.25"),
            *("+trainer.min_epochs=3", "trainer.test=false"),
        ),
    ],
)
def test_runs_that_steps_or_the_time_limit(lamella: Lamella, overrides: tuple[str, ...]) -> None:
    line = ("train", "-m", "seed=0,1", *SHORT, *overrides, "sweep.name=s", "hydra.launcher.slots=2")
    result = lamella(*line, "sweep.measure=true")
    assert result.status == 0, result.err
    assert LINE.search(result.out), result.err


@pytest.mark.slow
def test_a_search_ends_in_time(lamella: Lamella) -> None:
    line = (*SEARCH, "trainer.max_epochs=2", "visuals=none", "hydra.sweeper.n_trials=300", "hydra.launcher.slots=2")
    result = lamella(*line, "sweep.budget=6s", "sweep.measure=false")
    assert result.status == 0, result.err
    count = len(members())
    assert (
        f"{300 - count} of 300 trials were not started, because they might not have ended within sweep.budget, 6.0 s"
        in (result.out)
    )
    assert "took" not in result.out


@pytest.mark.slow
def test_a_trial_above_the_budget(lamella: Lamella) -> None:
    lamella(*SEARCH, "trainer.max_epochs=3000", "visuals=none", "sweep.budget=2s").check_refusal(
        "sweep.budget is 2.0 s, and a single trial takes "
    )
