"""What a run uses of the machine: in its record, in its last lines and in TensorBoard."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import Lamella
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lamella.training.machine_use import MachineUse, RunUse

NAMES = {"cores", "machine_cores", "memory_gb"}
SMALL = ("device=cpu", "visuals=none", "network=linear")
BUSY = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: sum(range(10_000))"
LARGE = "import time\ntaken = bytes(range(256)) * 800_000\nprint(len(taken), flush=True)\ntime.sleep(60)"


def usage(run: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((run / "run.json").read_text())["usage"]
    return fields


@pytest.mark.slow
def test_a_run_and_its_second_part(lamella: Lamella) -> None:
    """A resumed run counts on from the part before it, in the record and in TensorBoard."""
    result = lamella("train", *SMALL, "trainer.max_epochs=60")
    assert result.status == 0, result.err
    [run] = Path("outputs/default").iterdir()
    first = usage(run)
    assert first.keys() == NAMES
    assert 0 < first["cores"]["mean"] <= first["cores"]["peak"] <= (os.cpu_count() or 1)
    assert first["memory_gb"]["peak"] > 0.1
    line = rf"^machine     \d+\.\d of {os.cpu_count()} cores, at most {first['memory_gb']['peak']:.2f} GB of memory$"
    assert re.search(line, result.out, re.M), result.out
    assert lamella("resume", str(run), "trainer.max_epochs=120").status == 0
    second = usage(run)
    assert all(second[name][figure] >= first[name][figure] for name in NAMES for figure in ("peak", "seconds"))
    events = EventAccumulator(str(run)).Reload()
    assert {f"machine/{name}" for name in NAMES} <= set(events.Tags()["scalars"])
    points = events.Scalars("machine/cores")
    assert [point.step for point in points] == sorted(point.step for point in points)
    assert points[-1].step <= second["cores"]["seconds"]
    # The curves of the metrics are not longer or shorter for it.
    assert [point.step for point in events.Scalars("val/loss")] == [*range(1, 121)]
    assert lamella("runs", "--columns", "usage.cores.mean,usage.memory_gb.peak").status == 0


def test_a_run_of_less_than_a_second_is_measured(lamella: Lamella) -> None:
    assert lamella("train", *SMALL, "trainer.max_epochs=1").status == 0
    [run] = Path("outputs/default").iterdir()
    assert usage(run).keys() == NAMES
    assert usage(run)["cores"]["seconds"] > 0


def test_every_run_of_a_fused_sweep_is_measured(lamella: Lamella) -> None:
    options = ("optimizer.lr=1e-3,2e-3", "seed=0,1", "hydra/launcher=fused", "hydra.launcher.slots=1")
    assert lamella("train", "-m", *SMALL, *options, "trainer.max_epochs=2", "sweep.name=s").status == 0
    runs = [path.parent for path in Path("outputs/default/s").glob("*/run.json")]
    assert len(runs) == 4
    assert all(usage(run).keys() == NAMES for run in runs)


def test_a_record_of_an_earlier_version_is_resumed(lamella: Lamella) -> None:
    assert lamella("train", *SMALL, "trainer.max_epochs=1").status == 0
    [run] = Path("outputs/default").iterdir()
    fields = json.loads((run / "run.json").read_text())
    del fields["usage"]
    (run / "run.json").write_text(json.dumps(fields))
    assert lamella("resume", str(run), "trainer.max_epochs=2").status == 0
    assert usage(run)["cores"]["seconds"] > 0


@pytest.mark.slow
def test_processes_that_a_run_has_started_count() -> None:
    """Such as the workers of a data loader, those that have ended among them."""
    own = psutil.Process().memory_info().rss / 1e9
    with subprocess.Popen([sys.executable, "-c", LARGE], stdout=subprocess.PIPE, text=True) as large:
        assert large.stdout
        assert large.stdout.readline() == "204800000\n"
        with MachineUse("cpu") as machine:
            assert machine.totals() == (0.0, {}, {})
            with subprocess.Popen([sys.executable, "-c", BUSY]) as busy:  # ends before the next search for processes
                time.sleep(2.5)
                busy.kill()
            time.sleep(1.5)
            machine.sample()
        large.kill()
    seconds, sums, peaks = machine.totals()
    assert sums["cores"] > 0.3  # seconds of a core, however busy the machine is
    assert sums["cores"] / seconds <= peaks["cores"]
    assert len(machine.points) > 2
    assert peaks["memory_gb"] > own + 0.15


def test_a_run_without_a_sample_keeps_what_its_record_holds() -> None:
    earlier = {"cores": {"mean": 1.5, "peak": 2.0, "seconds": 2.0}}
    assert RunUse(MachineUse("cpu"), earlier).usage() == earlier
    assert RunUse(MachineUse("cpu"), {}).usage() == {}
