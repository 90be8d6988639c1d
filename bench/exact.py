"""What it costs that a run can go on exactly, and what saving it costs.

    python bench/exact.py ROOT [--repeats 9]

Two sides take turns, each a run of two MNIST epochs in a process of its own: as it is, and with the seeding of each
batch, the counting of positions and the look for signals taken out. The second epoch counts. Inside the first side the
time that these take, and the time that saving takes, are measured too, against that of both epochs: they are smaller
than what two epochs differ by.
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
Times = tuple[float, float, float]


def measure(queue: Any, root: str, network: str, exact: bool) -> None:
    """Put the seconds of the second epoch and the share of the time that saving took."""
    import pytorch_lightning as pl

    from lamella import __main__, task
    from lamella.checkpoints import Checkpoints

    saving, keeping, ends = [], [0.0], [time.perf_counter()]
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

    def measured(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> None:
            start = time.perf_counter()
            function(*given)
            keeping[0] += time.perf_counter() - start

        return call

    if exact:
        task.reseed = measured(task.reseed)
        Checkpoints.on_train_batch_start = measured(Checkpoints.on_train_batch_start)  # type: ignore[method-assign]
    else:
        task.reseed = lambda number, device: None
        Checkpoints.on_train_batch_start = pl.Callback.on_train_batch_start  # type: ignore[method-assign]
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    options = ["data=mnist", f"data.root={root}", f"network={network}", "device=cpu", "device.threads=1"]
    sys.argv = ["lamella", "train", *options, "trainer.max_epochs=2"]
    if __main__.main():
        os._exit(1)
    epochs = ends[-2] - ends[1], ends[-1] - ends[-2]
    queue.put((epochs[1], keeping[0] / sum(epochs), sum(saving) / sum(epochs)))


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
            keeping, saving = (statistics.median(exact[part] for exact, _ in pairs) for part in (1, 2))
            spread = f"{statistics.median(seconds):.2f} s ({min(seconds):.2f}–{max(seconds):.2f})"
            shares = f"exactness {cost:+6.1%}, measured inside {keeping:.1%}  saving {saving:.1%}"
            print(f"{network:<15} {spread:<22} {shares}", flush=True)
        os.chdir(Path(directory).parent)


if __name__ == "__main__":
    main()
