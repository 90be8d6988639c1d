"""Measure an epoch of several kinds of experiment: a loop written by hand, Lamella, and Lamella with three metrics.

    python bench/loop.py ROOT [--threads 1 2] [--repeats 5] [--case gpt unet mlp]

ROOT contains MNIST as torchvision stores it, for `mlp`. `gpt` is a GPT of 1.1 million parameters on windows of 128
bytes, and `unet` a U-Net on pictures of 32×32 pixels. All sides train the same network on the same samples. The loop by
hand has the samples in memory and a fused optimizer, measures no training metrics, and counts the accuracy of the
validation. The second of two epochs is timed from outside, between the lines that are printed after the epochs. The
sides take turns. The output is the medians with the fastest and slowest times, and the ratios to the loop and to
Lamella without metrics.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile

from epoch import NETWORKS, second_epoch

# The overrides of each case, and three metrics that suit it.
CASES = {
    "gpt": (
        ["data=characters", "data.size=100000", "data.batch_size=32", "network=gpt", "network.width=144"],
        "metrics=[perplexity,f1,balanced_accuracy]",
    ),
    "unet": (
        ["data=shapes", "data.source.count=4000", "data.batch_size=20", "network=unet"],
        "metrics=[iou,f1,balanced_accuracy]",
    ),
    "mlp": (["data=mnist", *NETWORKS["mlp"]], "metrics=[f1,auroc,balanced_accuracy]"),
}


def bare(overrides: list[str]) -> None:
    """Train with a loop written by hand, which takes the network and the normalised samples from Lamella."""
    import torch
    from torch.nn.functional import cross_entropy

    from lamella.config.compose import compose_one
    from lamella.data import Data
    from lamella.experiment.build import prepare_experiment

    experiment = prepare_experiment(compose_one(overrides).config)
    data, model, plan = experiment.data, experiment.task.network, experiment.plan
    assert plan
    assert isinstance(data, Data)
    data.setup("fit")
    [(inputs, targets)] = list(data.batches(data.train, batch_size=len(data.train)))
    [(val_inputs, val_targets)] = list(data.batches(data.val, batch_size=len(data.val)))
    assert isinstance(inputs, torch.Tensor)
    assert isinstance(val_inputs, torch.Tensor)
    last = len(plan.output) if overrides[0] == "data=characters" else 1  # the dimension of the scores
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    for epoch in range(2):
        model.train()
        for indices in torch.split(torch.randperm(len(inputs)), data.batch_size):
            scores = model(inputs[indices]).movedim(last, 1)
            loss = cross_entropy(scores, targets[indices], ignore_index=data.ignored)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
        model.eval()
        with torch.no_grad():
            size = 4 * data.batch_size
            batches = zip(torch.split(val_inputs, size), torch.split(val_targets, size), strict=True)
            right = sum(int((model(x).argmax(last) == y).sum()) for x, y in batches)
        print(f"epoch {epoch + 1}/2", right / val_targets.numel(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--case", choices=CASES, nargs="+", default=list(CASES))
    parser.add_argument("--bare", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        bare(options.bare)
        return
    root = f"data.root={os.path.abspath(options.root)}"

    from importlib.metadata import version

    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "pytorch-lightning", "lamella"))
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {versions}, n={options.repeats}")
    print("case    threads  side     seconds (min–max)      × bare  × lamella")
    with tempfile.TemporaryDirectory() as directory:
        for name in options.case:
            for threads in options.threads:
                measure(name, [root] * (name == "mlp"), threads, options.repeats, directory)


def measure(name: str, data: list[str], threads: int, repeats: int, directory: str) -> None:
    """Time the sides of a case in turn, and print a line for each side. data: further overrides."""
    case, metrics = CASES[name]
    case = [*case, *data, "device=cpu", f"device.threads={threads}", "trainer.max_epochs=2", "trainer.test=false"]
    train = [sys.executable, "-m", "lamella", "train", *case]
    sides = {
        "bare": [sys.executable, os.path.abspath(__file__), ".", "--bare", *case],
        "lamella": train,
        "metrics": [*train, metrics],
    }
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(repeats):
        for side, command in sides.items():
            seconds[side].append(second_epoch(command, threads, directory)[0])
    for side, times in seconds.items():
        spread = f"{statistics.median(times):6.2f} ({min(times):.2f}–{max(times):.2f})"
        ratios = [
            statistics.median(a / b for a, b in zip(times, seconds[other], strict=True))
            for other in ("bare", "lamella")
        ]
        print(f"{name:<7} {threads:>7}  {side:<7}  {spread:<22} {ratios[0]:6.3f}  {ratios[1]:9.3f}", flush=True)


if __name__ == "__main__":
    main()
