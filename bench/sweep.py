"""Measure what a sweep costs beside its jobs, compared with Hydra's basic launcher, which runs all in one process.

    python bench/sweep.py [--repeats 3] [--jobs 16] [--plan 1000]

A job is two epochs of the built-in digits with one thread. The sides take turns: the sweep with one slot, with two, and
with hydra/launcher=basic. The cost of a job beyond its own time is computed from the sweep with one slot: its wall time
minus the `seconds` of its jobs, minus the same difference for a sweep of one job, divided by the number of further
jobs. It is printed in units of the time that importing torch and pytorch_lightning takes.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

JOB = ("trainer.max_epochs=2", "device.threads=1", "device=cpu", "sweep.name=s")
SIDES = {
    "one slot": ("hydra.launcher.slots=1",),
    "two slots": ("hydra.launcher.slots=2",),
    "Hydra's basic launcher": ("hydra/launcher=basic",),
}


def sweep(jobs: int, *options: str) -> tuple[float, float]:
    """Return the wall time of a sweep, and the sum of the times of its jobs, in seconds."""
    with tempfile.TemporaryDirectory() as directory:
        values = f"optimizer.lr={','.join(f'{1 + number}e-4' for number in range(jobs))}"
        command = [sys.executable, "-m", "lamella", "train", "-m", values, *JOB, *options]
        start = time.perf_counter()
        subprocess.run(command, cwd=directory, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        records = [json.loads(path.read_text()) for path in Path(directory).rglob("run.json")]
        assert len(records) == jobs
        return seconds, sum(record["seconds"] for record in records)


def imports() -> float:
    """Return the seconds that importing torch and pytorch_lightning takes."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch, pytorch_lightning"], check=True)
    return time.perf_counter() - start


def plan(jobs: int) -> float:
    """Return the seconds from the command to the line that announces the planned jobs."""
    with tempfile.TemporaryDirectory() as directory:
        values = [f"seed=range({jobs // 10})", "network.width=16,32,64,128,256", "optimizer.lr=1e-3,1e-2"]
        command = [sys.executable, "-m", "lamella", "train", "-m", *values]
        start = time.perf_counter()
        with subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            line = process.stdout.readline()
            seconds = time.perf_counter() - start
            assert f": {jobs // 10 * 10} jobs" in line, line
            process.terminate()
            process.stdout.read()
        return seconds


def show(name: str, values: list[float], unit: str) -> None:
    """Print the median of the values, with the smallest and the largest one."""
    print(f"{name:<44} {statistics.median(values):6.2f} {unit} ({min(values):.2f}–{max(values):.2f})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=16)
    parser.add_argument("--plan", type=int, default=1000)
    options = parser.parse_args()
    walls: dict[str, list[float]] = {name: [] for name in SIDES}
    costs, imported, planned = [], [], []
    for _ in range(options.repeats):
        imported.append(imports())
        single, own = sweep(1, *SIDES["one slot"])
        for name, given in SIDES.items():
            wall, jobs = sweep(options.jobs, *given)
            walls[name].append(wall)
            print(f"  {name}: {wall:.1f} s, its jobs {jobs:.1f} s", flush=True)
            if name == "one slot":
                costs.append((wall - jobs - (single - own)) / (options.jobs - 1) / imported[-1])
        planned.append(plan(options.plan))
    for name in SIDES:
        show(f"{options.jobs} jobs, {name}", walls[name], "s")
    base = walls["Hydra's basic launcher"]
    for name in list(SIDES)[:2]:
        show(f"  {name} / basic", [a / b for a, b in zip(walls[name], base, strict=True)], "×")
    show("import torch, pytorch_lightning", imported, "s")
    show("each job beyond its own time", costs, "× the import")
    show(f"a plan of {options.plan} jobs", planned, "s")


if __name__ == "__main__":
    main()
