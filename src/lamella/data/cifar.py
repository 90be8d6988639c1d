"""Read CIFAR-10 and CIFAR-100 in their binary version, whose files hold nothing but bytes."""

from pathlib import Path

import numpy as np
import torch

from lamella.data.samples import Samples, Splits
from lamella.errors import RequestError

PIXELS = 3 * 32 * 32
# By the data set: the folder, the files of both splits, and the numbers before the pixels, of which the last is the
# class (https://www.cs.toronto.edu/~kriz/cifar.html).
LAYOUTS = {
    "CIFAR10": ("cifar-10-batches-bin", [f"data_batch_{number}.bin" for number in range(1, 6)], ["test_batch.bin"], 1),
    "CIFAR100": ("cifar-100-binary", ["train.bin"], ["test.bin"], 2),
}


def binary_cifar(dataset: str, root: Path) -> Splits | None:
    """Return the images of the binary version of a data set, None if its folder is not in `root`.

    dataset: one of LAYOUTS; None is returned for any other. Raises RequestError for files that are missing or damaged.
    """
    if dataset not in LAYOUTS or not (root / LAYOUTS[dataset][0]).is_dir():
        return None
    folder, train, test, numbers = LAYOUTS[dataset]

    def part(names: list[str]) -> Samples:
        rows = np.concatenate([_rows(root / folder / name, numbers + PIXELS) for name in names])
        images = torch.from_numpy(rows[:, numbers:].reshape(-1, 3, 32, 32).copy())
        return Samples(images, torch.from_numpy(rows[:, numbers - 1].astype(np.int64)))

    return Splits(train=part(train), test=part(test))


def _rows(path: Path, size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return the images of a file, each with the numbers before it, as rows of `size` bytes. Raises RequestError."""
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise RequestError(f"data.root: {path} cannot be read ({error.strerror})", "data.root") from error
    if not len(content) or len(content) % size:
        raise RequestError(
            f"data.root: {path} is damaged: it has {len(content):,} bytes, and an image takes {size:,}", "data.root"
        )
    return content.reshape(-1, size)
