"""What it costs that a run can go on exactly, and what saving it costs.

    python bench/exact.py ROOT [--repeats 9] [--case mlp neural_network digits]

Two sides take turns, each a run of two MNIST epochs, or ten of the built-in digits, in a process of its own: as it is,
and with the seeding of each batch, the counting of positions and the look for signals taken out. The last epoch counts.
Inside the first side the time that these take, and the time that saving takes, are measured too, against that of all
epochs: they are smaller than what two epochs differ by.
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

MNIST = ("data=mnist", "trainer.max_epochs=2")
CASES = {"mlp": MNIST, "neural_network": (*MNIST, "network=neural_network"), "digits": ("trainer.max_epochs=10",)}
Times = tuple[float, float, float]


def measure(queue: Any, root: str, case: str, exact: bool) -> None:
    """Put the seconds of the last epoch and the share of the time that saving took."""
    import pytorch_lightning as pl

    from lamella import __main__
    from lamella.training import task
    from lamella.training.checkpointing import Checkpoints

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
    place = [f"data.root={root}"] if "data=mnist" in CASES[case] else []
    sys.argv = ["lamella", "train", *CASES[case], *place, "device=cpu", "device.threads=1"]
    if __main__.main():
        os._exit(1)
    whole = ends[-1] - ends[1]
    queue.put((ends[-1] - ends[-2], keeping[0] / whole, sum(saving) / whole))


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

        def one(case: str, exact: bool) -> Times:
            process = context.Process(target=measure, args=(queue, root, case, exact))
            process.start()
            process.join()
            if process.exitcode:
                sys.exit("failed")
            times: Times = queue.get()
            return times

        for case in options.case:
            one(case, True)
            pairs = []
            for number in range(options.repeats):
                sides = [number % 2 == 0, number % 2 == 1]
                found = {exact: one(case, exact) for exact in sides}
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
