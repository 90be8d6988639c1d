"""Measure augmentation: crop, flip and erase of Lamella, and the same of torchvision's transforms v2 in two workers.

    python bench/augment.py [--images 20000] [--repeats 5]

Both sides serve shuffled, normalised batches of 128 images of the shape of CIFAR-10's, made of noise; nothing is
trained. Lamella changes whole batches in one thread of this process. The other side changes each image by a DataLoader
with two workers. The epochs of the two sides take turns. The output is the medians with the fastest and slowest times,
and the median ratio. Lamella's list without augmentation is measured too, which is the part of the time that the
batches take themselves.
"""

import argparse
import os
import platform
import statistics
from importlib.metadata import version

import torch
from images import Batches, seconds
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

SHAPE = [3, 32, 32]
CROP, ERASE, BATCH = 4, 8, 128
MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]


class Each(Dataset[tuple[Tensor, int]]):
    """Images that torchvision changes one by one."""

    def __init__(self, images: Tensor) -> None:
        from torchvision.transforms import v2

        self.images = images
        self.change = v2.Compose(
            [
                v2.RandomCrop(SHAPE[1:], padding=CROP),
                v2.RandomHorizontalFlip(),
                v2.RandomErasing(p=1, scale=(ERASE**2 / 32**2,) * 2, ratio=(1, 1)),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        return self.change(self.images[number]), number % 10


def lamella(images: Tensor, augmented: bool) -> Batches:
    """Return the training batches of Lamella."""
    from lamella.data import Crop, Data, Erase, Flip, Samples, Splits

    some, targets = Samples(images[:10], torch.arange(10)), torch.arange(len(images)) % 10
    splits = Splits(Samples(images, targets), some, some)
    augment = [Crop(CROP), Flip(), Erase(ERASE)] if augmented else []
    return Data(splits, SHAPE, BATCH, 10, mean=MEAN, std=STD, augment=augment).train_dataloader()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = torch.randint(256, (options.images, *SHAPE), dtype=torch.uint8)
    sides: dict[str, Batches] = {
        "Lamella": lamella(images, True),
        "not augmented": lamella(images, False),
        "DataLoader": DataLoader(Each(images), batch_size=BATCH, shuffle=True, num_workers=2),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.repeats):
        for name, batches in sides.items():
            times[name].append(seconds(batches))
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "lamella"))
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {versions}, n={options.repeats}")
    for name, measured in times.items():
        middle = statistics.median(measured)
        print(
            f"{name:<14} {middle:7.3f} s an epoch ({min(measured):.3f}–{max(measured):.3f}), "
            f"{1e6 * middle / options.images:6.1f} µs an image"
        )
    pairs = zip(times["DataLoader"], times["Lamella"], strict=True)
    print(f"the DataLoader takes {statistics.median(slow / fast for slow, fast in pairs):.1f} times as long")


if __name__ == "__main__":
    main()
