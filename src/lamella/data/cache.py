"""A cache of decoded images: one file of pixels on the disk, which all processes map into memory."""

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
    """Images in a file of pixels. Indexing gives uint8 (B, *shape); `take` selects images without copying any.

    pixels: all images of the file (N, *shape). rows: the images that are selected, in their order.
    """

    def __init__(self, pixels: Tensor, rows: Tensor) -> None:
        self.pixels, self.rows = pixels, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Return the images with these indices."""
        return self.pixels.index_select(0, self.rows[indices])

    def take(self, indices: Tensor) -> "MappedImages":
        """Return a selection of the images."""
        return MappedImages(self.pixels, self.rows[indices])


FOLDER = Path("outputs", ".cache")
VERSION = 1  # has to change when an image file is decoded to other pixels


def map_images(images: ImageFiles) -> MappedImages:
    """Return the images, decoded into a cache file by the first process that asks for them.

    Other processes wait for that process, and later ones find the file. The name of the file depends on the paths,
    sizes and modification times of the image files, and on the shape. Raises RequestError if an image cannot be read
    or the file cannot be written; no part of the file is left then.
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
    # A private mapping that is never written to uses the page cache, which all processes share.
    pixels = torch.from_file(str(path), shared=False, size=count, dtype=torch.uint8)
    return MappedImages(pixels.view(-1, *images.shape), torch.arange(len(images)))


def _key(images: ImageFiles) -> str:
    """Return the name of the cache file, without its suffix. Raises RequestError if an image file is missing."""
    digest = hashlib.sha256(repr((VERSION, images.shape)).encode())
    for path in images.paths:
        try:
            status = os.stat(path)
        except OSError as error:
            raise RequestError(
                f"data: {path} is no readable image ({error.strerror}); mend or remove it", "data.root"
            ) from error
        digest.update(
            f"\0{os.path.abspath(path)}\0{status.st_size}\0{status.st_mtime_ns}".encode(errors="surrogateescape")
        )
    return digest.hexdigest()[:32]


def _write(images: ImageFiles, path: Path, count: int) -> None:
    """Decode the images into the file `path`. count: the number of bytes."""
    for stale in FOLDER.glob(f".{path.name}.*"):  # left behind by a process that was killed
        stale.unlink()
    with replacing(path) as temporary, temporary.open("wb") as file:
        # On a full disk, this call raises an error. Without it, a write to the mapped memory would crash the process.
        os.posix_fallocate(file.fileno(), 0, count)
        images.load(torch.from_file(str(temporary), shared=True, size=count, dtype=torch.uint8))
