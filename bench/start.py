"""Measure how long commands of `lamella` take from their start to their end, compared with `import torch`.

    python bench/start.py [--repeats 5]

Each command is a program of its own; the commands take turns. Those whose names end with "warm" are run by a server of
`lamella warm`, which is started for this measurement and ended after it. RUN is a run of one epoch on the digits.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

WARM = ", warm"
TRAIN = "lamella train trainer.max_epochs=1"
COMMANDS = (
    "import torch",
    "import torch, torchvision, pytorch_lightning",
    "lamella --help",
    "lamella train --help",
    "lamella train --cfg job",
    "lamella runs",
    "lamella resume RUN",  # which is finished
    TRAIN,
    f"{TRAIN}{WARM}",
    "lamella inspect RUN",
    f"lamella inspect RUN{WARM}",
    "lamella eval RUN",
    f"lamella eval RUN{WARM}",
)


def measure(name: str, directory: str) -> float:
    """Return the seconds that a command takes."""
    runtime = directory if name.endswith(WARM) else f"{directory}/none"
    words = name.removesuffix(WARM).replace("RUN", "outputs/run").split()
    arguments = ["-m", *words] if words[0] == "lamella" else ["-c", name]
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env=os.environ | {"XDG_RUNTIME_DIR": runtime},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory(prefix="start") as directory:
        os.mkdir(f"{directory}/none")
        measure(TRAIN, directory)
        [run] = os.listdir(f"{directory}/outputs/default")
        os.rename(f"{directory}/outputs/default/{run}", f"{directory}/outputs/run")
        lamella, server = [sys.executable, "-m", "lamella"], os.environ | {"XDG_RUNTIME_DIR": directory}
        subprocess.run([*lamella, "warm"], env=server, check=True)
        try:
            for _ in range(options.repeats):
                for name in COMMANDS:
                    times[name].append(measure(name, directory))
        finally:
            subprocess.run([*lamella, "warm", "--stop"], env=server, check=True)
    base = times[COMMANDS[0]]
    for name, seconds in times.items():
        ratio = statistics.median(a / b for a, b in zip(seconds, base, strict=True))
        middle = statistics.median(seconds)
        print(f"{name:<46} {middle:5.2f} s ({min(seconds):.2f}–{max(seconds):.2f})  {ratio:.2f} × import torch")


if __name__ == "__main__":
    main()
