"""Measure one MNIST epoch: a bare loop over tensors in memory, Lamella with everything on, and the tutorial's way.

    python bench/epoch.py ROOT [--threads 1 2] [--repeats 5] [--compile]

ROOT contains MNIST as torchvision stores it. Each side is a program of its own that trains two epochs on 55,000 images
and validates on the other 5,000 after each. The second epoch is timed from outside, between the lines that are printed
after the two epochs. The sides take turns. The output is the medians with the fastest and slowest times, the ratios and
the peak memory of each program. With --compile, Lamella with `device.compile=true` takes part too; it compiles in the
first epoch.
"""

import argparse
import os
import platform
import pty
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

NETWORKS = {
    "neural_network": ["network=neural_network"],
    "mlp": [
        "network=mlp",
        "network.layers=[Flatten,{Linear:64},BatchNorm1d,ReLU,{Linear:128},BatchNorm1d,ReLU,{Linear:64},BatchNorm1d,ReLU,{Linear:10}]",
        "~network.depth",
        "~network.width",
        "~network.activation",
        "~network.norm",
        "~network.dropout",
    ],
    "cnn": ["network=cnn"],
    "resnet": ["network=resnet"],
}


def network(name: str) -> "nn.Module":
    """Return the network that `NETWORKS` describes for Lamella, as plain modules."""
    from torch import nn

    if name in ("cnn", "resnet"):  # which have many layers
        from lamella.config.compose import compose_one
        from lamella.experiment.build import build_network

        return build_network(compose_one(["data=mnist", *NETWORKS[name]]).config)[0]

    def block(size_in: int, size_out: int) -> list[nn.Module]:
        return [nn.Linear(size_in, size_out), nn.BatchNorm1d(size_out), nn.ReLU()]

    if name == "mlp":
        return nn.Sequential(nn.Flatten(), *block(784, 64), *block(64, 128), *block(128, 64), nn.Linear(64, 10))
    layers = [nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *layers)


def bare(root: str, name: str, threads: int) -> None:
    """Train with a loop written by hand: normalised floats in memory, a fused optimizer, no training metrics."""
    import torch
    from torchvision.datasets import MNIST

    torch.set_num_threads(threads)
    data = MNIST(root, train=True)
    images = ((data.data / 255 - 0.1307) / 0.3081).unsqueeze(1)
    held = len(images) // 12
    inputs, targets, val_inputs, val_targets = images[held:], data.targets[held:], images[:held], data.targets[:held]
    model, loss_function = network(name), torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    for epoch in range(2):
        model.train()
        for indices in torch.split(torch.randperm(len(inputs)), 64):
            loss = loss_function(model(inputs[indices]), targets[indices])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        model.eval()
        with torch.no_grad():
            batches = zip(torch.split(val_inputs, 256), torch.split(val_targets, 256), strict=True)
            right = sum(int((model(x).argmax(1) == y).sum()) for x, y in batches)
        print(f"epoch {epoch + 1}/2", right / len(val_inputs), flush=True)


def tutorial(root: str, name: str, threads: int) -> None:
    """Train as PyTorch's quickstart does: a torchvision data set, a DataLoader, the default optimizer."""
    import torch
    from torch.utils.data import DataLoader, Subset
    from torchvision import transforms
    from torchvision.datasets import MNIST

    torch.set_num_threads(threads)
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    data = MNIST(root, train=True, transform=transform)
    held = len(data) // 12
    loader = DataLoader(Subset(data, range(held, len(data))), batch_size=64, shuffle=True)
    val_loader = DataLoader(Subset(data, range(held)), batch_size=256)
    model, loss_function = network(name), torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters())
    for epoch in range(2):
        model.train()
        for inputs, targets in loader:
            loss = loss_function(model(inputs), targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        model.eval()
        with torch.no_grad():
            right = sum(int((model(x).argmax(1) == y).sum()) for x, y in val_loader)
        print(f"epoch {epoch + 1}/2", right / held, flush=True)


def lamella(root: str, name: str, threads: int, compiles: bool = False) -> list[str]:
    """Return the command that trains with Lamella."""
    held = (os.path.getsize(os.path.join(root, "MNIST/raw/train-labels-idx1-ubyte")) - 8) // 12
    data = ["data=mnist", f"data.root={os.path.abspath(root)}", f"data.val_size={held}"]
    options = ["device=cpu", f"device.threads={threads}", "trainer.max_epochs=2", f"device.compile={compiles}"]
    return [sys.executable, "-m", "lamella", "train", *data, *options, *NETWORKS[name]]


def measure(side: str, root: str, name: str, threads: int, directory: str) -> tuple[float, float]:
    """Run one side, and return the seconds of its second epoch and its peak resident memory in MB."""
    command = [sys.executable, os.path.abspath(__file__), os.path.abspath(root), "--side", side, "--network", name]
    if side in ("lamella", "compiled"):
        command = lamella(root, name, threads, side == "compiled")
    else:
        command += ["--threads", str(threads)]
    return second_epoch(command, threads, directory)


def second_epoch(command: list[str], threads: int, directory: str) -> tuple[float, float]:
    """Run a program of two epochs, and return the seconds of the second one and the peak resident memory in MB."""
    # Standard error is a terminal, so that Lamella shows its progress bar.
    master, slave = pty.openpty()
    threading.Thread(target=_drain, args=(master,), daemon=True).start()
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=slave,
        text=True,
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
    )
    os.close(slave)
    times = []
    assert process.stdout
    for line in process.stdout:
        if line.startswith("epoch "):
            times.append(time.perf_counter())
    _, status, usage = os.wait4(process.pid, 0)
    if status or len(times) != 2:
        sys.exit(f"failed: {' '.join(command)}")
    return times[1] - times[0], usage.ru_maxrss / 1024


def _drain(master: int) -> None:
    """Read and drop what is written to the terminal, so that the program never waits."""
    try:
        while os.read(master, 65536):
            pass
    except OSError:
        pass  # the program has closed the terminal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--network", choices=NETWORKS, nargs="+", default=list(NETWORKS))
    parser.add_argument("--compile", action="store_true", help="also measure device.compile=true")
    parser.add_argument("--side", choices=["bare", "tutorial"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        {"bare": bare, "tutorial": tutorial}[options.side](options.root, options.network[0], options.threads[0])
        return

    from importlib.metadata import version

    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "pytorch-lightning", "lamella"))
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {versions}, n={options.repeats}")
    print("network         threads  side      seconds (min–max)      × bare  peak MB")
    with tempfile.TemporaryDirectory() as directory:
        for name in options.network:
            for threads in options.threads:
                sides = ["bare", "lamella", *["compiled"] * options.compile, "tutorial"]
                results: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
                for _ in range(options.repeats):
                    for side in sides:
                        results[side].append(measure(side, options.root, name, threads, directory))
                seconds = {side: [result[0] for result in results[side]] for side in sides}
                for side in sides:
                    middle = statistics.median(seconds[side])
                    ratio = statistics.median(a / b for a, b in zip(seconds[side], seconds["bare"], strict=True))
                    spread = f"{middle:6.2f} ({min(seconds[side]):.2f}–{max(seconds[side]):.2f})"
                    memory = max(result[1] for result in results[side])
                    print(f"{name:<15} {threads:>7}  {side:<8}  {spread:<22} {ratio:6.2f}  {memory:7.0f}", flush=True)
                ratio = statistics.median(t / b for t, b in zip(seconds["tutorial"], seconds["lamella"], strict=True))
                print(
                    f"{name:<15} {threads:>7}  the tutorial way takes {ratio:.1f} times as long as Lamella", flush=True
                )


if __name__ == "__main__":
    main()
