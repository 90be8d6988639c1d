"""Measure a training step with each memory format and each precision.

    python bench/layouts.py [--threads 1] [--repeats 7] [--batch 64] [--device cpu] [--network cnn-28 resnet-32]

The steps are the forward and backward pass of a network from conf/network and a step of a fused Adam, on made images,
without Lightning. The variants take turns. The output is the median milliseconds of a step in float32, and the share of
them that the other variants take. On the CPU, this is the time that the processor works, which other programs on the
machine change less than the time on the clock.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable

SHAPES = {"28": (1, 28, 28), "32": (3, 32, 32), "64": (3, 64, 64)}
CASES = (
    *("mlp-28", "cnn-28", "convnet-28", "resnet-28", "cnn-32", "resnet-32", "resnet9-32", "resnet20-32", "resnet18-32"),
    *("mobilenet-32", "densenet-32", "unet-32", "resnet18-64", "unet-64"),
)
VARIANTS = {"float32": (False, False), "channels last": (True, False), "bf16": (False, True), "both": (True, True)}


def step(name: str, batch: int, device: str, channels_last: bool, bf16: bool) -> Callable[[], None]:
    """Return a function that takes a training step. name: of the network and of the images, as in CASES."""
    import torch
    from torch.nn.functional import cross_entropy

    from lamella.config.compose import compose_one
    from lamella.experiment.build import build_network

    network, size = name.split("-")
    config = compose_one(["data=mnist", f"network={network}"]).config
    shape = list(SHAPES[size])
    model = build_network({**config, "data": {**config["data"], "shape": shape}})[0].train().to(device)
    if channels_last:
        model.to(memory_format=torch.channels_last)
    inputs = torch.randn(batch, *shape, device=device)
    targets = torch.randint(0, 10, (batch, *shape[1:]) if network == "unet" else (batch,), device=device)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)

    def take() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            loss = cross_entropy(model(inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        if device != "cpu":
            getattr(torch, device).synchronize()

    return take


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--network", choices=CASES, nargs="+", default=CASES)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # read when torch is imported

    from importlib.metadata import version

    from lamella.training.device import keep_freed_memory

    keep_freed_memory()  # as a run does
    print(f"{platform.processor() or platform.machine()}, torch {version('torch')}, n={options.repeats}")
    print(f"{'network':<14}{'float32':>12}" + "".join(f"{name:>15}" for name in list(VARIANTS)[1:]))
    clock = time.process_time if options.device == "cpu" and options.threads == 1 else time.perf_counter
    for name in options.network:
        steps = {variant: step(name, options.batch, options.device, *how) for variant, how in VARIANTS.items()}
        times: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
        for number in range(options.repeats + 2):
            for variant, take in steps.items():
                begun = clock()
                take()
                if number >= 2:  # the first steps are slower
                    times[variant].append(clock() - begun)
        middle = {variant: statistics.median(one) for variant, one in times.items()}
        shares = "".join(f"{middle[variant] / middle['float32']:15.2f}" for variant in list(VARIANTS)[1:])
        print(f"{name:<14}{1e3 * middle['float32']:9.2f} ms{shares}", flush=True)


if __name__ == "__main__":
    main()
