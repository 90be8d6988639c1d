"""Measure how long `lamella` takes to answer and to reach the first step, compared with the imports of a run.

    python bench/start.py [--repeats 5]

Each command is a program of its own; the commands take turns. A run is measured until it prints an epoch of a single
batch, so that the time includes its first step and one batch of validation.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time

LAMELLA = [sys.executable, "-m", "lamella"]
ONE_BATCH = ["+trainer.limit_train_batches=1", "+trainer.limit_val_batches=1", "trainer.max_epochs=1"]
COMMANDS = {
    "import torch, torchvision, pytorch_lightning": [
        sys.executable,
        "-c",
        "import torch, torchvision, pytorch_lightning; print('epoch', flush=True)",
    ],
    "lamella --help": [*LAMELLA, "--help"],
    "lamella train --cfg job": [*LAMELLA, "train", "--cfg", "job"],
    "lamella train, to the first epoch's end": [*LAMELLA, "train", *ONE_BATCH],
}


def measure(command: list[str], directory: str) -> float:
    """Return the seconds until the command prints an epoch or, if it prints none, until it ends."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    seconds = None
    for line in process.stdout:
        if line.startswith("epoch"):
            seconds = time.perf_counter() - start
    if process.wait():
        sys.exit(f"failed: {' '.join(command)}")
    return seconds or time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(options.repeats):
            for name, command in COMMANDS.items():
                times[name].append(measure(command, directory))
    base = times[next(iter(COMMANDS))]
    for name, seconds in times.items():
        ratio = statistics.median(a / b for a, b in zip(seconds, base, strict=True))
        middle = statistics.median(seconds)
        print(f"{name:<46} {middle:5.2f} s ({min(seconds):.2f}–{max(seconds):.2f})  {ratio:.2f} × the import")


if __name__ == "__main__":
    main()
