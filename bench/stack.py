"""Measure where the time of a step goes in which several networks are computed as one.

    python bench/stack.py [--networks 32] [--repeats 200]

The networks are `mlp` of bench/epoch.py, the batches 64 made images of 28×28 pixels, on one thread. The output is the
median time that the processor works, in milliseconds for each network, for each part: with the layers that compute all
networks at once, with vmap, which other networks need, and one network after another. The last line is a bmm for each
matrix product of the step, which no way of computing it can leave out.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from epoch import network
from torch import Tensor, nn

from lamella.sweeps.fused.stack import NetworkStack
from lamella.training.objective import Objective

PARTS = ("batches into one tensor", "forward pass", "loss", "backward pass, gradients")
BATCH = 64


class Own(nn.Sequential):
    """A class that the stack does not know, so that it computes the network with vmap."""


def milliseconds(parts: Callable[[], Sequence[float]], count: int, repeats: int) -> list[float]:
    """Return the median milliseconds of each part for one of `count` networks. parts: takes a step and times it."""
    rows = [parts() for _ in range(repeats)]
    return [1e3 * statistics.median(column) / count for column in zip(*rows, strict=True)]


def stacked(networks: list[nn.Module], images: list[Tensor], classes: list[Tensor]) -> Callable[[], list[float]]:
    """Return a function that takes a step of all networks as one, and returns the seconds of PARTS."""
    base = copy.deepcopy(networks[0]).to("meta")
    stack = NetworkStack(networks, base, [Objective(nn.CrossEntropyLoss(), "classes") for _ in networks])

    def parts() -> list[float]:
        times = [time.process_time()]
        inputs, targets = torch.stack(images), torch.stack(classes)
        times.append(time.process_time())
        outputs = stack(inputs)
        times.append(time.process_time())
        losses = stack.losses(outputs, targets)
        times.append(time.process_time())
        stack.gradients(losses)
        times.append(time.process_time())
        return [after - before for before, after in pairwise(times)]

    return parts


def alone(networks: list[nn.Module], images: list[Tensor], classes: list[Tensor]) -> Callable[[], list[float]]:
    """Return a function that takes a step of one network after another, and returns the seconds of PARTS."""
    loss = nn.CrossEntropyLoss()

    def parts() -> list[float]:
        seconds = [0.0] * len(PARTS)
        for module, inputs, targets in zip(networks, images, classes, strict=True):
            times = [time.process_time()]
            outputs = module(inputs)
            times.append(time.process_time())
            value = loss(outputs, targets)
            times.append(time.process_time())
            torch.autograd.grad(value, [*module.parameters()])
            times.append(time.process_time())
            for part, (before, after) in enumerate(pairwise(times), 1):
                seconds[part] += after - before
        return seconds

    return parts


def products(count: int) -> Callable[[], list[float]]:
    """Return a function that computes the matrix products of a step, and returns the seconds."""
    sizes = ((784, 64), (64, 128), (128, 64), (64, 10))
    cases = [(torch.randn(count, BATCH, i), torch.randn(count, i, o), torch.randn(count, BATCH, o)) for i, o in sizes]

    def parts() -> list[float]:
        begun = time.process_time()
        for number, (inputs, weights, gradients) in enumerate(cases):
            torch.bmm(inputs, weights)
            torch.bmm(inputs.transpose(1, 2), gradients)
            if number:  # images get no gradients
                torch.bmm(gradients, weights.transpose(1, 2))
        return [time.process_time() - begun]

    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    count = options.networks
    images = [torch.randn(BATCH, 1, 28, 28) for _ in range(count)]
    classes = [torch.randint(10, (BATCH,)) for _ in range(count)]
    networks = [network("mlp").train() for _ in range(count)]
    own: list[nn.Module] = [Own(*copy.deepcopy(module).children()) for module in networks]
    single = [copy.deepcopy(module) for module in networks]
    sides = {
        "layers of all networks": stacked(networks, images, classes),
        "vmap": stacked(own, images, classes),
        "one after another": alone(single, images, classes),
    }
    times = {side: milliseconds(parts, count, options.repeats) for side, parts in sides.items()}
    print(f"torch {torch.__version__}, {count} networks, n={options.repeats}")
    print(f"{'milliseconds for a network':<28}" + "".join(f"{side:>24}" for side in times))
    for number, part in enumerate(PARTS):
        print(f"{part:<28}" + "".join(f"{values[number]:>24.3f}" for values in times.values()))
    print(f"{'all':<28}" + "".join(f"{sum(values):>24.3f}" for values in times.values()))
    print(f"{'matrix products alone':<28}{milliseconds(products(count), count, options.repeats)[0]:>24.3f}")


if __name__ == "__main__":
    main()
