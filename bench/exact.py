"""Measure what it costs that a run can be resumed exactly, and what its checkpoints cost.

    python bench/exact.py ROOT [--repeats 9] [--case mlp neural_network digits]

Two sides take turns, each a run of two MNIST epochs, or ten of the built-in digits, in a process of its own: one as it
is, and one without the seeding of each batch and the check before each batch for signals and due checkpoints. The last
epoch counts. Inside the first side, the time for these and the time for checkpoints between epochs are measured too, as
a share of the time of all epochs: they are smaller than the differences between two epochs.
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

MNIST = ("data=mnist", "trainer.max_epochs=2")
CASES = {"mlp": MNIST, "neural_network": (*MNIST, "network=neural_network"), "digits": ("trainer.max_epochs=10",)}
Times = tuple[float, float, float]
P = ParamSpec("P")
R = TypeVar("R")


def measure(queue: "multiprocessing.Queue[Times]", root: str, case: str, exact: bool) -> None:
    """Train once, and put three numbers into the queue.

    These are the seconds of the last epoch, and the shares of the time that exactness and checkpoints took.
    """
    import pytorch_lightning as pl

    from lamella import __main__
    from lamella.training.checkpointing import Checkpoints
    from lamella.training.task import Task

    keeping, saving, ends = [0.0], [0.0], [time.perf_counter()]

    def measured(function: Callable[P, R], seconds: list[float], moments: list[float]) -> Callable[P, R]:
        """Return the function with its time added to `seconds[0]`, and the time of each call to `moments`."""

        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            start = time.perf_counter()
            moments.append(start)
            try:
                return function(*args, **kwargs)
            finally:
                seconds[0] += time.perf_counter() - start

        return call

    # Checkpoints are saved in these hooks, which are called when an epoch starts and when the last one has ended.
    hooks = (Checkpoints.on_train_epoch_start, Checkpoints.on_train_end)
    Checkpoints.on_train_epoch_start = measured(hooks[0], saving, ends)  # type: ignore[method-assign]
    Checkpoints.on_train_end = measured(hooks[1], saving, ends)  # type: ignore[method-assign]
    before_batch = Checkpoints.on_train_batch_start
    if exact:
        Task.reseed = measured(Task.reseed, keeping, [])  # type: ignore[method-assign]
        Checkpoints.on_train_batch_start = measured(before_batch, keeping, [])  # type: ignore[method-assign]
    else:
        Task.reseed = lambda self: None  # type: ignore[method-assign]
        Checkpoints.on_train_batch_start = pl.Callback.on_train_batch_start  # type: ignore[method-assign]
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    place = [f"data.root={root}"] if "data=mnist" in CASES[case] else []
    sys.argv = ["lamella", "train", *CASES[case], *place, "device=cpu", "device.threads=1"]
    if __main__.main():
        os._exit(1)
    whole = ends[-1] - ends[1]
    queue.put((ends[-1] - ends[-2], keeping[0] / whole, saving[0] / whole))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    options = parser.parse_args()
    root = os.path.abspath(options.root)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lamella.experiment.session", "lamella.commands.train", "hydra.main"])
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        queue = context.Queue()

        def run(case: str, exact: bool) -> Times:
            """Train once in a process of its own."""
            process = context.Process(target=measure, args=(queue, root, case, exact))
            process.start()
            process.join()
            if process.exitcode:
                sys.exit("failed")
            times: Times = queue.get()
            return times

        for case in options.case:
            run(case, True)  # the first run also reads the data from the disk
            pairs = []
            for number in range(options.repeats):
                sides = [number % 2 == 0, number % 2 == 1]
                found = {exact: run(case, exact) for exact in sides}
                pairs.append((found[True], found[False]))
            seconds = [exact[0] for exact, _ in pairs]
            cost = statistics.median(exact[0] / plain[0] - 1 for exact, plain in pairs)
            keeping, saving = (statistics.median(exact[part] for exact, _ in pairs) for part in (1, 2))
            spread = f"{statistics.median(seconds):.2f} s ({min(seconds):.2f}–{max(seconds):.2f})"
            shares = f"exactness {cost:+6.1%}, measured inside {keeping:.1%}  saving {saving:.1%}"
            print(f"{case:<15} {spread:<22} {shares}", flush=True)
        os.chdir(Path(directory).parent)


if __name__ == "__main__":
    main()
