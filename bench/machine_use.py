"""Measure what it costs to measure the machine: the share of a core that the thread of a run takes.

    python bench/machine_use.py [--seconds 60] [--children 4]

The thread samples this process and some child processes that compute, once a second, as it does in a run. The time
that a core spent in this thread is read at the end of the measurement. The number of processes on the machine is
printed too, because a search for child processes looks at all of them.
"""

import argparse
import os
import subprocess
import sys
import time
from importlib.metadata import version

import psutil

from lamella.training.machine_use import MachineUse

BUSY = "while True: sum(range(10_000))"


class Timed(MachineUse):
    """A measurement that knows the CPU time of its own thread."""

    cpu_seconds = 0.0

    def _sample_until_end(self) -> None:
        super()._sample_until_end()
        self.cpu_seconds = time.thread_time()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--children", type=int, default=4)
    options = parser.parse_args()
    children = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(options.children)]
    try:
        machine = Timed("cuda")
        with machine:
            time.sleep(options.seconds)
    finally:
        for child in children:
            child.kill()
            child.wait()
    seconds, sums, _ = machine.totals()
    print(f"psutil {version('psutil')}, {os.cpu_count()} cores, {len(psutil.pids())} processes on the machine")
    print(f"{options.children} child processes, which kept {sums['cores'] / seconds:.1f} cores busy")
    print(f"the thread took {machine.cpu_seconds / options.seconds:.2%} of one core")


if __name__ == "__main__":
    main()
