"""Measure what drawing costs: an MNIST epoch with visuals=none, default and full.

    python bench/visuals.py ROOT [--repeats 5]

The sides take turns, each run a program of its own. The second epoch counts. What is drawn once, at the start, is
printed separately, as the difference of the times until the end of the first epoch.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

SIDES = ("none", "default", "full")
NETWORKS = ("mlp", "neural_network", "cnn")


def measure(root: str, network: str, side: str, directory: str) -> tuple[float, float]:
    """Return the seconds of the second epoch, and the seconds from the start to the end of the first one."""
    options = [
        "data=mnist",
        f"data.root={os.path.abspath(root)}",
        f"network={network}",
        f"visuals={side}",
        "trainer.max_epochs=2",
    ]
    command = [sys.executable, "-m", "lamella", "train", *options, "device.threads=1", "device=cpu"]
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    ends = [time.perf_counter() for line in process.stdout if line.startswith("epoch")]
    if process.wait():
        sys.exit(f"failed: {' '.join(command)}")
    return ends[1] - ends[0], ends[0] - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--network", nargs="+", default=list(NETWORKS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        for network in options.network:
            rounds = [
                {side: measure(options.root, network, side, directory) for side in SIDES}
                for _ in range(options.repeats)
            ]
            for side in SIDES:
                seconds = [found[side][0] for found in rounds]
                cost = statistics.median(found[side][0] / found["none"][0] - 1 for found in rounds)
                start = statistics.median(found[side][1] - found["none"][1] for found in rounds)
                spread = f"{statistics.median(seconds):.2f} s ({min(seconds):.2f}–{max(seconds):.2f})"
                print(
                    f"{network:<15} {side:<8} {spread:<22} {cost:+6.1%}  first epoch and start {start:+.2f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
