"""Measure what threads cost that wait in loops: an epoch of a CNN on two threads, with and without PASSIVE waiting.

    python bench/wait.py [--repeats 5] [--busy 0]

Each side trains `network=cnn` on the digits for two epochs, in a program of its own, and the `seconds` of the second
epoch count. One side has OMP_WAIT_POLICY=PASSIVE, as the command `lamella` sets it, the other side has what OpenMP does
by default. The sides take turns. busy: how many other programs compute at the same time. The output is the medians with
the fastest and slowest times.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

POLICIES = {"default": {}, "PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"}}
PROGRAM = "import sys; from lamella.commands.train import main; sys.exit(main(sys.argv[1:]))"
OPTIONS = ["network=cnn", "trainer.max_epochs=2", "device=cpu", "device.threads=2", "visuals=none"]


def epoch_seconds(policy: str) -> float:
    """Return the seconds of the second epoch of a run with one of POLICIES."""
    environ = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", PROGRAM, *OPTIONS]
        subprocess.run(command, cwd=folder, env=environ | POLICIES[policy], check=True, stdout=subprocess.DEVNULL)
        [metrics] = Path(folder).glob("outputs/*/*/metrics.jsonl")
        return float(json.loads(metrics.read_text().splitlines()[1])["seconds"])


def main() -> None:
    """Print the seconds of both sides."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--busy", type=int, default=0)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {policy: [] for policy in POLICIES}
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(options.busy)]
    try:
        for _ in range(options.repeats):
            for policy, times in seconds.items():
                times.append(epoch_seconds(policy))
    finally:
        for other in others:
            other.kill()
    for policy, times in seconds.items():
        print(f"{policy:<8} {statistics.median(times):.2f} s ({min(times):.2f}–{max(times):.2f}), n = {len(times)}")


if __name__ == "__main__":
    main()
