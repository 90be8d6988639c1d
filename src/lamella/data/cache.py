"""Labelled samples, in memory or as files, and how they are split."""

import fcntl
import hashlib
import os
from pathlib import Path

import torch
from torch import Tensor

from lamella.atomic_files import replacing
from lamella.data.images import ImageFiles
from lamella.errors import RequestError


class MappedImages:
    """Images that a file holds, uint8 (B, *shape) when they are indexed; `take` copies none.

    pixels: all that are in the file (N, *shape). rows: which of them, and in which order.
    """

    def __init__(self, pixels: Tensor, rows: Tensor) -> None:
        self.pixels, self.rows = pixels, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, indices: Tensor) -> Tensor:
        return self.pixels.index_select(0, self.rows[indices])

    def take(self, indices: Tensor) -> "MappedImages":
        return MappedImages(self.pixels, self.rows[indices])


FOLDER = Path("outputs", ".cache")
VERSION = 1  # of how an image becomes pixels


def map_images(images: ImageFiles) -> MappedImages:
    """The images, decoded by the first process that asks for them; others wait for it, and later ones find the file.

    It is named after the files, their sizes and times, and the shape. Raises RequestError where an image cannot be read
    or the file cannot be written; nothing is left of it then.
    """
    path = FOLDER / f"{_key(images)}.uint8"
    count = len(images) * torch.Size(images.shape).numel()
    try:
        FOLDER.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists() or path.stat().st_size != count:
                _write(images, path, count)
    except OSError as error:
        raise RequestError(
            f"data.cache: the decoded images, {count / 1e9:.2g} GB, cannot be written to {FOLDER.absolute()} "
            f"({error.strerror}); make room there, or leave data.cache null and set data.in_memory=false",
            "data.cache",
        ) from error
    # Private: what nobody writes to is read from the page cache, which all processes share.
    pixels = torch.from_file(str(path), shared=False, size=count, dtype=torch.uint8)
    return MappedImages(pixels.view(-1, *images.shape), torch.arange(len(images)))


def _key(images: ImageFiles) -> str:
    digest = hashlib.sha256(repr((VERSION, images.shape)).encode())
    for path in images.paths:
        try:
            found = os.stat(path)
        except OSError as error:
            raise RequestError(
                f"data: {path} is no readable image ({error.strerror}); mend or remove it", "data.root"
            ) from error
        digest.update(
            f"\0{os.path.abspath(path)}\0{found.st_size}\0{found.st_mtime_ns}".encode(errors="surrogateescape")
        )
    return digest.hexdigest()[:32]


def _write(images: ImageFiles, path: Path, count: int) -> None:
    for stale in FOLDER.glob(f".{path.name}.*"):  # a process that was killed has left it
        stale.unlink()
    with replacing(path) as temporary, temporary.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, count)  # a full disk shows here, not when the memory is written to
        images.load(torch.from_file(str(temporary), shared=True, size=count, dtype=torch.uint8))
