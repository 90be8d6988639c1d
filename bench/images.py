"""Measure an epoch over a folder of JPEGs: Lamella's memory-mapped cache, and a DataLoader with two workers.

    python bench/images.py [--images 20000] [--repeats 5]

Both sides read the same files, resize them to 3×64×64 and serve shuffled, normalised batches of 64; nothing is trained.
The files are drawn here, 160×120 each. Lamella decodes the images once before the first epoch and keeps them; then the
epochs of the two sides take turns. The output is the medians with the fastest and slowest times, and the median ratio.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image

CLASSES = ["0", "1", "2", "3"]
SHAPE = [3, 64, 64]
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
Batches = Iterable[tuple[object, torch.Tensor]]


def draw(root: Path, count: int) -> None:
    """Draw images of coarse noise, enlarged: as hard to decode as photographs of their size."""

    def one(number: int) -> None:
        noise = np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        image = Image.fromarray(noise).resize((160, 120), Image.Resampling.BICUBIC)
        image.save(root / "train" / CLASSES[number % len(CLASSES)] / f"{number}.jpg", quality=85)

    for name in CLASSES:
        (root / "train" / name).mkdir(parents=True)
    with ThreadPoolExecutor() as pool:
        list(pool.map(one, range(count)))


def loader(root: Path) -> Batches:
    """Return the training batches of a torchvision data set and a DataLoader."""
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    steps = [transforms.Resize(SHAPE[1:]), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    data = datasets.ImageFolder(str(root / "train"), transforms.Compose(steps))
    return DataLoader(data, batch_size=64, shuffle=True, num_workers=2)


def cached(root: Path) -> Batches:
    """Return the training batches of Lamella's cache, which is made if there is none."""
    from lamella.data import Data, image_folder

    source = image_folder(str(root), SHAPE, CLASSES)
    data = Data(source, SHAPE, 64, len(CLASSES), CLASSES, mean=MEAN, std=STD, val_size=1, test_size=1, cache="memmap")
    data.setup("fit")
    return data.train_dataloader()


def seconds(batches: Batches) -> float:
    """Return the seconds that one epoch takes."""
    start = time.perf_counter()
    for inputs, _ in batches:
        assert isinstance(inputs, torch.Tensor)
        assert inputs.dtype == torch.float32
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    import lamella.data  # noqa: F401  # so that the time of the import is not measured

    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "pillow", "lamella"))
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {versions}, n={options.repeats}")
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        root = Path("pictures")
        draw(root, options.images)
        start = time.perf_counter()
        ours = cached(root)
        size = sum(file.stat().st_size for file in Path("outputs/.cache").iterdir()) / 1e6
        print(f"decoding once, {size:.0f} MB: {time.perf_counter() - start:.2f} s")
        start = time.perf_counter()
        cached(root)
        print(f"finding it again: {time.perf_counter() - start:.2f} s")
        sides = {"Lamella": ours, "DataLoader": loader(root)}
        found: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(options.repeats):
            for name, batches in sides.items():
                found[name].append(seconds(batches))
        for name, values in found.items():
            print(f"{name:<10} {statistics.median(values):.3f} s an epoch ({min(values):.3f}–{max(values):.3f})")
        ratio = statistics.median(b / a for a, b in zip(found["Lamella"], found["DataLoader"], strict=True))
        print(f"the DataLoader takes {ratio:.1f} times as long as Lamella")


if __name__ == "__main__":
    main()
