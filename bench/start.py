"""Measure how long `lamella` takes to answer and to reach the first step, compared with the imports of a run.

    python bench/start.py [--repeats 5]

Each command is a program of its own; the commands take turns. One run is measured until it prints an epoch of a single
batch, so that the time includes its first step and one batch of validation. The others are measured to their end, with
and without a server of `lamella warm`, which is started for this measurement and ended after it.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

LAMELLA = [sys.executable, "-m", "lamella"]
FIRST_EPOCH = "lamella train, to the end of an epoch of one batch"
ONE_BATCH = ["+trainer.limit_train_batches=1", "+trainer.limit_val_batches=1", "trainer.max_epochs=1"]
WARM = ", warm"  # ends the names of the commands that the server runs
ONE_EPOCH = [*LAMELLA, "train", "trainer.max_epochs=1"]
COMMANDS = {
    "import torch, torchvision, pytorch_lightning": [
        sys.executable,
        "-c",
        "import torch, torchvision, pytorch_lightning",
    ],
    "lamella --help": [*LAMELLA, "--help"],
    "lamella train --cfg job": [*LAMELLA, "train", "--cfg", "job"],
    FIRST_EPOCH: [*LAMELLA, "train", *ONE_BATCH],
    "lamella train trainer.max_epochs=1": ONE_EPOCH,
    f"lamella train trainer.max_epochs=1{WARM}": ONE_EPOCH,
    "lamella inspect": [*LAMELLA, "inspect"],
    f"lamella inspect{WARM}": [*LAMELLA, "inspect"],
}


def measure(name: str, directory: str) -> float:
    """Return the seconds until the command ends or, for FIRST_EPOCH, until it prints an epoch."""
    runtime = directory if name.endswith(WARM) else f"{directory}/none"
    environ = os.environ | {"XDG_RUNTIME_DIR": runtime}
    start = time.perf_counter()
    process = subprocess.Popen(COMMANDS[name], cwd=directory, env=environ, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    seconds = None
    for line in process.stdout:
        if line.startswith("epoch") and name == FIRST_EPOCH:
            seconds = time.perf_counter() - start
    if process.wait():
        sys.exit(f"failed: {' '.join(COMMANDS[name])}")
    return seconds or time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory(prefix="start") as directory:
        os.mkdir(f"{directory}/none")
        server = os.environ | {"XDG_RUNTIME_DIR": directory}
        subprocess.run([*LAMELLA, "warm"], env=server, check=True)
        try:
            for _ in range(options.repeats):
                for name in COMMANDS:
                    times[name].append(measure(name, directory))
        finally:
            subprocess.run([*LAMELLA, "warm", "--stop"], env=server, check=True)
    base = times[next(iter(COMMANDS))]
    for name, seconds in times.items():
        ratio = statistics.median(a / b for a, b in zip(seconds, base, strict=True))
        middle = statistics.median(seconds)
        print(f"{name:<51} {middle:5.2f} s ({min(seconds):.2f}–{max(seconds):.2f})  {ratio:.2f} × the import")


if __name__ == "__main__":
    main()
