"""Measure how long `lamella runs` takes for many run directories.

python bench/runs.py
python bench/runs.py --runs 1000 --repeats 1
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MEMBERS = 100  # of each sweep, which is one directory
CASES: dict[str, list[str]] = {
    "list": [],
    "by a metric": ["--sort", "val/accuracy"],
    "by what was swept": ["--filter", "optimizer.lr<1e-2 and status=finished"],
    "by what only config.yaml has": ["--filter", "optimizer.weight_decay<1e-2"],
}


def make(directory: Path, count: int) -> None:
    """Train one run, and write `count` runs with copies of its files."""
    train = [sys.executable, "-m", "lamella", "train", "trainer.max_epochs=2"]
    subprocess.run(train, cwd=directory, check=True, capture_output=True)
    [made] = directory.glob("outputs/default/*")
    fields, config = json.loads((made / "run.json").read_text()), (made / "config.yaml").read_text()
    for number in range(count):
        lr = 10 ** (-1 - number % 40 / 10)
        name = f"optimizer.lr={lr:.5f},seed={number}"
        path = directory / "many" / f"sweep{number // MEMBERS:03}" / name
        (path / "checkpoints").mkdir(parents=True)
        metrics = {key: value * (1 + number % 97 / 1000) for key, value in fields["metrics"].items()}
        fields |= {"overrides": name.split(","), "seed": number, "metrics": metrics}
        (path / "run.json").write_text(json.dumps(fields, indent=2))
        (path / "config.yaml").write_text(config.replace("lr: 0.001", f"lr: {lr:.5f}"))
        for file in ("log.txt", "metrics.jsonl", "events.out.tfevents.0", "checkpoints/best.ckpt"):
            (path / file).touch()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), options.runs)
        times: dict[str, list[float]] = {name: [] for name in CASES}
        for _ in range(options.repeats):
            for name, arguments in CASES.items():
                began = time.perf_counter()
                command = [sys.executable, "-m", "lamella", "runs", "many", *arguments]
                subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
                times[name].append(time.perf_counter() - began)
    print(f"{options.runs:,} runs, n = {options.repeats}, median (least to most), Python {sys.version.split()[0]}")
    for name, found in times.items():
        print(f"{name:<30} {statistics.median(found):.2f} s ({min(found):.2f} to {max(found):.2f})")


if __name__ == "__main__":
    main()
