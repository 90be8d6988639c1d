"""Measure a sweep as one program, its jobs one after another in one process, and the default launcher.

    python bench/fused.py ROOT [--repeats 3] [--seeds 4] [--network mlp neural_network]

ROOT contains MNIST as torchvision stores it. The members are 8 learning rates × SEEDS seeds, each one epoch with one
thread; `mlp` is 784-64-128-64-10 with BatchNorm. Every launcher has one slot. The sides take turns; each is a whole
program, from the command to its end, without pictures. The output is the medians with the fastest and slowest times,
the ratios of the fused launcher to each side, and the line about the width in the log of a member.
"""

import argparse
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from epoch import NETWORKS

RATES = "optimizer.lr=1e-4,2e-4,5e-4,1e-3,2e-3,3e-3,5e-3,1e-2"
SIDES = {
    "fused": ("hydra/launcher=fused", "hydra.launcher.slots=1"),
    "one after another": ("hydra/launcher=basic",),
    "default": ("hydra.launcher.slots=1",),
}


def sweep(
    data: Sequence[str], network: str, seeds: int, *options: str, limit: float | None = None
) -> tuple[float, str]:
    """Return the wall time of a sweep in seconds, and the line about the width in the log of a member.

    data: overrides. Raises subprocess.TimeoutExpired if the sweep takes longer than `limit` seconds.
    """
    job = ("trainer.max_epochs=1", "device.threads=1", "visuals=none", "sweep.name=s")
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "lamella", "train", "-m", RATES, f"seed=range({seeds})", *data, *job]
        start = time.perf_counter()
        command += [*NETWORKS[network], *options]
        subprocess.run(command, cwd=directory, check=True, stdout=subprocess.DEVNULL, timeout=limit)
        seconds = time.perf_counter() - start
        logs = [path.read_text() for path in Path(directory).rglob("log.txt")]
        assert len(logs) == 8 * seeds
        said = re.search(r"^\d+ networks? at once.*", logs[0], re.M)
        return seconds, said[0] if said else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--network", choices=NETWORKS, nargs="+", default=list(NETWORKS))
    options = parser.parse_args()
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "pytorch-lightning", "lamella"))
    print(f"{platform.processor() or platform.machine()}, {versions}, {8 * options.seeds} members, n={options.repeats}")
    data = ("data=mnist", f"data.root={os.path.abspath(options.root)}")
    for network in options.network:
        walls: dict[str, list[float]] = {side: [] for side in SIDES}
        for _ in range(options.repeats):
            for side, given in SIDES.items():
                seconds, said = sweep(data, network, options.seeds, "device=cpu", *given)
                walls[side].append(seconds)
                print(f"  {network}, {side}: {seconds:.1f} s  {said}", flush=True)
        for side, taken in walls.items():
            ratio = statistics.median(a / b for a, b in zip(walls["fused"], taken, strict=True))
            spread = f"{statistics.median(taken):6.1f} s ({min(taken):.1f}–{max(taken):.1f})"
            print(f"{network:<15} {side:<18} {spread:<24} fused / this {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
