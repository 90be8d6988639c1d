"""Functions that read samples. Each returns Splits, and raises RequestError for data that is missing or broken.

A new source is also exported in `lamella/data/__init__.py`, and gets an option `conf/data/NAME.yaml`.
"""

import gzip
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate

from lamella.data.images import IMAGE_SUFFIXES, ImageFiles
from lamella.data.samples import Samples, Splits
from lamella.errors import RequestError, first_line, nearest

TORCHVISION = ("MNIST", "FashionMNIST", "KMNIST", "CIFAR10", "CIFAR100")


def digits(size: int = 28) -> Splits:
    """Return the 1,797 handwritten digits that scikit-learn contains, upscaled from 8×8 to 1×size×size.

    The file is read from the folder of scikit-learn, because importing the library takes longer than the training.
    """
    spec = find_spec("sklearn")
    assert spec is not None
    assert spec.origin is not None
    with gzip.open(Path(spec.origin).parent / "datasets/data/digits.csv.gz", "rt") as file:
        table = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.uint8))
    pixels = table[:, :64].reshape(-1, 1, 8, 8).float() * (255 / 16)
    images = interpolate(pixels, size=(size, size), mode="bilinear").round().to(torch.uint8)
    return Splits(Samples(images, table[:, 64].long()))


def tensors(inputs: list[object], targets: list[object]) -> Splits:
    """Return samples that are written in the config, for computations that can be followed by hand.

    inputs: nested lists of numbers (N, …). targets: class indices (N,), or nested lists of floats (N, …). Validation
    and test use the same samples, because there are too few to hold any back.
    """
    try:
        values, labels = torch.tensor(inputs, dtype=torch.float32), torch.tensor(targets)
    except (TypeError, ValueError) as error:
        raise RequestError(
            f"data: inputs and targets take nested lists of numbers ({first_line(error)})", "data"
        ) from error
    samples = Samples(values, labels if labels.dim() == 1 and not labels.is_floating_point() else labels.float())
    return Splits(samples, samples, samples)


def torchvision_dataset(dataset: str, root: str, download: bool = True) -> Splits:
    """Return a data set of torchvision with its standard test set.

    dataset: one of the names in TORCHVISION. root: the folder in which torchvision finds the data set, or stores it if
    `download` is true.
    """
    from torchvision import datasets

    if dataset not in TORCHVISION:
        raise RequestError(
            f"data.source.dataset is {dataset!r}; {nearest(dataset, TORCHVISION)}", "data.source.dataset"
        )
    cls = getattr(datasets, dataset)
    folder = Path(root).expanduser()
    new_folders = [path for path in (folder / dataset / "raw", folder / dataset, folder) if not path.exists()]

    def part(train: bool) -> Samples:
        loaded = cls(folder, train=train, download=download)
        images = torch.as_tensor(loaded.data)
        images = images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2).contiguous()
        return Samples(images, torch.as_tensor(loaded.targets))

    try:
        return Splits(train=part(True), test=part(False))
    except Exception as error:
        for path in new_folders:
            with suppress(OSError):  # it contains something, or does not exist
                path.rmdir()
        here = folder.absolute()
        if "not found" in str(error) or "Error downloading" in str(error) or isinstance(error, OSError):
            tried = "it could not be downloaded" if download else "data.download is false"
            cause = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            message = (
                f"data.root is {str(root)!r}: there is no intact {dataset} in {here}, and {tried}\n"
                f"  ({cause});\n  point data.root at the folder that holds it, or use data=digits"
            )
        else:
            message = (
                f"data.root is {str(root)!r}: the {dataset} files in {here} are damaged; remove them and try again"
            )
        raise RequestError(message, "data.root") from error


def image_folder(root: str, shape: list[int], classes: list[str]) -> Splits:
    """Return the images in `root/train/<class>/`, and in `root/val/` and `root/test/` if these folders exist.

    shape: (channels, height, width) to which each image is converted. classes: the names of the folders, in the order
    of the class indices.
    """
    folder = Path(root).expanduser()
    if not (folder / "train").is_dir():
        raise RequestError(
            f"data.root is {root!r}: {folder.absolute()} has no folder train/ with one folder a class in it",
            "data.root",
        )
    parts = [name for name in ("train", "val", "test") if (folder / name).is_dir()]
    return Splits(**{name: _part(folder / name, shape, classes) for name in parts})


def class_folders(root: str) -> list[str]:
    """Return the classes of an image folder: the sorted names of the folders in `root/train`. Raises RequestError."""
    folder = Path(root).expanduser() / "train"
    names = _folders(folder) if folder.is_dir() else []
    if not names:
        state = "holds no folders" if folder.is_dir() else "is not there"
        raise RequestError(
            f"data.root is {root!r}: {folder.absolute()} {state}; put the images of each class into train/<class>/",
            "data.root",
        )
    return names


def _folders(path: Path) -> list[str]:
    """Return the sorted names of the folders in `path`, without hidden ones."""
    return sorted(child.name for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))


def _part(folder: Path, shape: list[int], classes: list[str]) -> Samples:
    """Return the samples of one split. folder: has one folder for each class."""
    unknown = [name for name in _folders(folder) if name not in classes]
    if unknown:
        raise RequestError(
            f"data.classes has no {unknown[0]!r}, a folder in {folder}; {nearest(unknown[0], classes)}", "data.classes"
        )
    paths, targets = [], []
    for number, name in enumerate(classes):
        images = sorted(str(path) for path in (folder / name).rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        if not images and folder.name == "train":
            raise RequestError(
                f"data.root: there are no images in {folder / name}; put some there, or remove the folder", "data.root"
            )
        paths += images
        targets += [number] * len(images)
    if not paths:
        raise RequestError(f"data.root: there are no images in {folder}/<class>/", "data.root")
    return Samples(ImageFiles(paths, shape), torch.tensor(targets))
