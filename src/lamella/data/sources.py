"""Functions that read samples. Each returns Splits, and raises RequestError for data that is missing or broken.

A new source is also exported in `lamella/data/__init__.py`, and gets an option `conf/data/NAME.yaml`.
"""

import gzip
import os
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate

from lamella.data.cifar import binary_cifar
from lamella.data.decoder import Decoder
from lamella.data.folders import IMAGE_SUFFIXES, files_below, files_outside, folder_names, left_out_text
from lamella.data.images import ImageFiles
from lamella.data.samples import Samples, Splits
from lamella.errors import RequestError, first_line, nearest

TORCHVISION = ("MNIST", "FashionMNIST", "KMNIST", "CIFAR10", "CIFAR100")
# Names of folders that are splits and no classes, also where they are spelled with capitals.
SIMILAR = ("train", "training", "val", "valid", "validation", "dev", "eval", "test", "testing")
# What can be said of a digit, and of which it is true. The lines of the last four are round a hole.
LABELS = {"even": [0, 2, 4, 6, 8], "prime": [2, 3, 5, 7], "large": [5, 6, 7, 8, 9], "round": [0, 6, 8, 9]}


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


def digit_labels(size: int = 28) -> Splits:
    """Return the pictures of `digits` with the labels in LABELS: floats (N, 4), 1 for those that hold."""
    digit = digits(size).train
    labels = torch.stack([torch.isin(digit.targets, torch.tensor(those)) for those in LABELS.values()], 1)
    return Splits(Samples(digit.inputs, labels.float()))


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
    `download` is true. If it contains the binary version of a CIFAR data set, that is read without torchvision.
    """
    if dataset not in TORCHVISION:
        raise RequestError(
            f"data.source.dataset is {dataset!r}; {nearest(dataset, TORCHVISION)}", "data.source.dataset"
        )
    folder = Path(root).expanduser()
    if splits := binary_cifar(dataset, folder):
        return splits
    from torchvision import datasets

    cls = getattr(datasets, dataset)
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


def image_folder(
    root: str, shape: list[int], classes: list[str], background: str = "white", draft: bool = False
) -> Splits:
    """Return the images in `root/train/<class>/`, and in `root/val/` and `root/test/` if these folders exist.

    Without `root/train`, the folders in `root` are the classes. shape, background, draft: how each image is decoded, as
    described in `Decoder`. classes: the names of the folders, in the order of the class indices.
    """
    decoder = Decoder(tuple(shape), background, draft)
    files, left_out, notes = class_files(root, classes, IMAGE_SUFFIXES, "images")
    parts = {
        name: Samples(ImageFiles(paths, decoder), torch.tensor(targets)) for name, (paths, targets) in files.items()
    }
    return Splits(parts["train"], parts.get("val"), parts.get("test"), left_out_text(left_out), notes)


ClassFiles = tuple[list[str], list[int]]  # paths, and the class index of each


def class_files(
    root: str, classes: list[str], suffixes: Collection[str], noun: str
) -> tuple[dict[str, ClassFiles], Counter[str], list[str]]:
    """Return the files of each split in folders of classes, how many others are left out, by kind, and notes.

    root, classes: as in `image_folder`. suffixes: the endings of the files. noun: what the files are, for messages.
    Raises RequestError.
    """
    folder, train = Path(root).expanduser(), _train_folder(root)
    folders = {"train": train}
    if train != folder:
        folders |= {name: folder / name for name in ("val", "test") if (folder / name).is_dir()}
    repeated = [name for name, count in Counter(classes).items() if count > 1]
    if repeated:
        raise RequestError(f"data.classes names {repeated[0]!r} twice; each class takes one place", "data.classes")
    left_out = Counter[str]()
    parts = {name: _part(path, classes, left_out, name == "train", suffixes, noun) for name, path in folders.items()}
    return parts, left_out, _folder_notes(folder, folders, noun)


def class_folders(root: str) -> list[str]:
    """Return the classes of an image folder: the sorted names of the folders in `root/train`, or else in `root`.

    Raises RequestError if there are none.
    """
    folder = _train_folder(root)
    names = folder_names(folder)
    if not names:
        raise RequestError(
            f"data.root is {root!r}: {folder.absolute()} holds no folders; put the files of each class into "
            "train/<class>/",
            "data.root",
        )
    return names


def _train_folder(root: str) -> Path:
    """Return the folder that has one folder for each class: `root/train`, or `root` without it. Raises RequestError."""
    folder = Path(root).expanduser()
    if (folder / "train").is_dir():
        return folder / "train"
    if not folder.is_dir():
        raise RequestError(f"data.root is {root!r}: there is no folder {folder.absolute()}", "data.root")
    names = folder_names(folder)
    if not names:
        raise RequestError(
            f"data.root is {root!r}: {folder.absolute()} has no folders; put the files of each class into a folder "
            "<class>/ or train/<class>/ there",
            "data.root",
        )
    similar = [name for name in names if name.lower() in SIMILAR]
    if similar:
        raise RequestError(
            f"data.root is {root!r}: {folder.absolute()} has the folder {similar[0]}/, but none with the name train/; "
            "rename the folders to train/, val/ and test/",
            "data.root",
        )
    return folder


def _part(
    folder: Path,
    classes: list[str],
    left_out: Counter[str],
    every_class: bool,
    suffixes: Collection[str],
    noun: str,
) -> ClassFiles:
    """Return the files of one split. Raises RequestError.

    folder: has one folder for each class. left_out: counts what is left out. every_class: whether each class needs a
    file. suffixes, noun: as in `class_files`.
    """
    unknown = [name for name in folder_names(folder) if name not in classes]
    if unknown:
        raise RequestError(
            f"data.classes has no {unknown[0]!r}, a folder in {folder}; {nearest(unknown[0], classes)}", "data.classes"
        )
    paths, targets = list[str](), list[int]()
    for number, name in enumerate(classes):
        found, others = files_below(folder / name, suffixes) if (folder / name).is_dir() else ([], Counter())
        if not found and every_class:
            instead = f" ({left_out_text(others)})" if others else ""
            raise RequestError(
                f"data.root: there are no {noun} in {folder / name}{instead}; put some there, or remove the folder",
                "data.root",
            )
        paths += found
        targets += [number] * len(found)
        left_out += others
    if not paths:
        raise RequestError(f"data.root: there are no {noun} in {folder}/<class>/", "data.root")
    left_out += files_outside(folder, suffixes)
    return paths, targets


def _folder_notes(root: Path, folders: Mapping[str, Path], noun: str) -> list[str]:
    """Return notes about folders beside `train` that are not read, and about folders that are read twice.

    folders: for each split, the folder with its classes. noun: what is read.
    """
    notes = []
    known = {os.path.realpath(folder) for folder in folders.values()}
    unread = [f"{root / name}/" for name in folder_names(root) if os.path.realpath(root / name) not in known]
    if unread and root not in folders.values():
        notes.append(f"only train/, val/ and test/ are read, and not {', '.join(unread)}")
    places: dict[str, list[str]] = {}
    for folder in folders.values():
        for name in folder_names(folder):
            places.setdefault(os.path.realpath(folder / name), []).append(str(folder / name))
    if same := [names for names in places.values() if len(names) > 1]:
        more = f", and so are {len(same) - 1} more" * (len(same) > 1)
        notes.append(f"{' and '.join(same[0])} are one folder, so that its {noun} are read more than once{more}")
    return notes
