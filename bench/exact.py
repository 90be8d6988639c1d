"""What it costs that a run can go on exactly, and what saving it costs.

    python bench/exact.py ROOT [--repeats 9]

Two sides take turns, each a run of two MNIST epochs in a process of its own: as it is, and with the seeding of each
batch, the counting of positions and the look for signals taken out. The second epoch counts. The time that saving takes
is measured inside the first side, against the run's whole time.
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
from typing import Any

NETWORKS = ("mlp", "neural_network")
Times = tuple[float, float]


def measure(queue: Any, root: str, network: str, exact: bool) -> None:
    """Put the seconds of the second epoch and the share of the time that saving took."""
    import pytorch_lightning as pl

    from lamella import __main__, task
    from lamella.checkpoints import Checkpoints

    saving, ends = [], [time.perf_counter()]
    save: Callable[..., None] = Checkpoints._save
    over: Callable[..., None] = Checkpoints._epoch_over

    def timed(self: Checkpoints, trainer: pl.Trainer, batches: int) -> None:
        start = time.perf_counter()
        save(self, trainer, batches)
        saving.append(time.perf_counter() - start)

    def noted(self: Checkpoints, trainer: pl.Trainer) -> None:
        ends.append(time.perf_counter())
        over(self, trainer)

    Checkpoints._save, Checkpoints._epoch_over = timed, noted  # type: ignore[method-assign]
    if not exact:
        task.reseed = lambda number, device: None
        Checkpoints.on_train_batch_start = pl.Callback.on_train_batch_start  # type: ignore[method-assign]
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    options = ["data=mnist", f"data.root={root}", f"network={network}", "device=cpu", "device.threads=1"]
    sys.argv = ["lamella", "train", *options, "trainer.max_epochs=2"]
    if __main__.main():
        os._exit(1)
    epochs = ends[-2] - ends[1], ends[-1] - ends[-2]
    queue.put((epochs[1], sum(saving) / sum(epochs)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--network", nargs="+", default=list(NETWORKS))
    options = parser.parse_args()
    root = os.path.abspath(options.root)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lamella.attempt", "lamella.commands.train", "hydra.main"])
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        queue = context.Queue()

        def one(network: str, exact: bool) -> Times:
            process = context.Process(target=measure, args=(queue, root, network, exact))
            process.start()
            process.join()
            if process.exitcode:
                sys.exit("failed")
            times: Times = queue.get()
            return times

        for network in options.network:
            one(network, True)
            pairs = []
            for number in range(options.repeats):
                sides = [number % 2 == 0, number % 2 == 1]
                found = {exact: one(network, exact) for exact in sides}
                pairs.append((found[True], found[False]))
            seconds = [exact[0] for exact, _ in pairs]
            cost = statistics.median(exact[0] / plain[0] - 1 for exact, plain in pairs)
            saving = statistics.median(exact[1] for exact, _ in pairs)
            spread = f"{statistics.median(seconds):.2f} s ({min(seconds):.2f}–{max(seconds):.2f})"
            print(f"{network:<15} {spread:<22} exactness {cost:+6.1%}  saving {saving:5.1%} of the time", flush=True)
        os.chdir(Path(directory).parent)


if __name__ == "__main__":
    main()
