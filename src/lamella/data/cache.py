"""A cache of decoded images: one file of pixels on the disk, which all processes map into memory."""

import fcntl
import hashlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from lamella.atomic_files import open_to_append, replacing
from lamella.data.contents import checksums
from lamella.data.decoder import UnreadableImages
from lamella.data.images import ImageFiles
from lamella.errors import RequestError
from lamella.tables import format_size

BLOCK = 2**24  # bytes that are written at a time
FOLDER = Path("outputs", ".cache")
SHARED = "LAMELLA_IMAGES"  # the variable with the folder in which the jobs of a sweep share decoded images
PREFIX = ".images-"  # of the name of that folder
VERSION = 2  # has to change when an image file is decoded to other pixels


class MappedImages:
    """Images in a file of pixels. Indexing gives uint8 (B, *shape).

    pixels: all images of the file (N, *shape). rows: the images that are selected, in their order. sums: the file with
    their checksums.
    """

    def __init__(self, pixels: Tensor, rows: Tensor, sums: Path) -> None:
        self.pixels, self.rows, self.sums = pixels, rows, sums

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Return the images with these indices."""
        return self.pixels.index_select(0, self.rows[indices])

    def checksums(self) -> np.ndarray:
        """Return the CRC-32 of each image, uint32 (N,), which are computed when the cache is made."""
        sums: np.ndarray = _checksums(self.sums, self.pixels)[self.rows.numpy()]
        return sums


def map_images(images: ImageFiles) -> MappedImages:
    """Return the images, decoded into a cache file by the first process that asks for them.

    Other processes wait for that process, and later ones find the file. The name of the file depends on the paths,
    sizes and modification times of all files from which the images are selected, and on how they are decoded.
    Raises UnreadableImages if an image cannot be read, and RequestError if the file cannot be written; no part of the
    file is left then.
    """
    try:
        return _map_images(images, FOLDER)
    except OSError as error:
        raise RequestError(
            f"data.cache: the decoded images, {format_size(_size(images.whole()))}, cannot be written to "
            f"{FOLDER.absolute()} ({error.strerror}); make room there, or leave data.cache null and set "
            "data.in_memory=false",
            "data.cache",
        ) from error


def load_images(images: ImageFiles) -> Tensor:
    """Return the images in memory, uint8 (N, *shape); of the jobs of a sweep, only the first one decodes them.

    Raises UnreadableImages, and RequestError if there is not enough memory.
    """
    if SHARED in os.environ:
        try:
            mapped = _map_images(images, Path(os.environ[SHARED]))
            return mapped[torch.arange(len(mapped))]
        except (OSError, RuntimeError):  # no room, for example: this job decodes them too
            pass
    try:
        return images.load()
    except (RuntimeError, MemoryError) as error:
        raise RequestError(
            f"data: {len(images):,} decoded images take {format_size(_size(images))}, more than can be allocated; set "
            "data.cache=memmap, or data.in_memory=false",
            "data.in_memory",
        ) from error


@contextmanager
def sharing_images(directory: Path) -> Iterator[None]:
    """Let processes that are started within the block share decoded images, in a folder that is then removed.

    directory: where the folder is made. Where that fails, each process decodes for itself.
    """
    for stale in directory.glob(f"{PREFIX}*"):  # left behind by a process that was killed
        shutil.rmtree(stale, ignore_errors=True)
    try:
        folder = tempfile.mkdtemp(prefix=PREFIX, dir=directory.absolute())
    except OSError:
        yield
        return
    os.environ[SHARED] = folder
    try:
        yield
    finally:
        del os.environ[SHARED]
        shutil.rmtree(folder, ignore_errors=True)


def _map_images(images: ImageFiles, folder: Path) -> MappedImages:
    whole = images.whole()
    path = folder / f"{_key(whole)}.uint8"
    note, sums, count = path.with_suffix(".lock"), path.with_suffix(".crc32"), _size(whole)
    use = _use(path) if _is_intact(path, note, count) else None
    if use is None:
        folder.mkdir(parents=True, exist_ok=True)
        with open_to_append(note) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_intact(path, note, count):
                sums.unlink(missing_ok=True)
                _write(whole, path, count)
                lock.truncate(0)
                _checksums(sums, _mapped(path, images.decoder.shape, count))
                lock.write(f"{_digest(path)}\n{_stamp(path)}")
                lock.flush()
            use = _use(path)
    mapped = MappedImages(_mapped(path, images.decoder.shape, count), images.rows, sums)
    if use:
        weakref.finalize(mapped, use.close)
    return mapped


def _use(path: Path) -> BinaryIO | None:
    """Lock a cache file against `lamella clean` until the returned file is closed. Return None if it has been moved."""
    try:
        file = path.open("rb")
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_SH)
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
    except FileNotFoundError:
        return None
    file.close()
    return None


def _mapped(path: Path, shape: tuple[int, ...], count: int) -> Tensor:
    """Return the images of a cache file, uint8 (N, *shape). count: the number of bytes."""
    # A private mapping that is never written to uses the page cache, which all processes share.
    return torch.from_file(str(path), shared=False, size=count, dtype=torch.uint8).view(-1, *shape)


def _checksums(path: Path, pixels: Tensor) -> np.ndarray:
    """Return the CRC-32 of each image, uint32 (N,), from the file `path`, which is written if it is not there."""
    if path.is_file() and path.stat().st_size == 4 * len(pixels):
        return np.fromfile(path, "<u4")
    sums = checksums(pixels)
    assert sums is not None
    with suppress(OSError), replacing(path) as temporary:  # where they cannot be kept, they are computed again
        sums.astype("<u4").tofile(temporary)
    return sums


def _key(images: ImageFiles) -> str:
    """Return the name of the cache file, without its suffix. Raises UnreadableImages if an image file is missing."""
    digest = hashlib.sha256(repr((VERSION, images.decoder)).encode())
    for path in images.paths:
        try:
            status = os.stat(path)
        except OSError as error:
            raise UnreadableImages(*images.problems().values()) from error
        digest.update(
            f"\0{os.path.abspath(path)}\0{status.st_size}\0{status.st_mtime_ns}".encode(errors="surrogateescape")
        )
    return digest.hexdigest()[:32]


def _size(images: ImageFiles) -> int:
    """Return how many bytes the decoded images take."""
    return len(images) * torch.Size(images.decoder.shape).numel()


def _is_intact(path: Path, note: Path, count: int) -> bool:
    """Return True if a cache file has the bytes that were written into it.

    The bytes are read only if the file has been touched since then. note: the file with their checksum. count: the
    number of bytes.
    """
    if not note.is_file():
        return False
    try:
        checksum, _, stamp = note.read_text("utf-8").partition("\n")
        return path.stat().st_size == count and (_stamp(path) == stamp or _digest(path) == checksum)
    except (OSError, ValueError):
        return False


def _stamp(path: Path) -> str:
    """Return what changes with every write to a file. Unlike the modification time, no program can set it back."""
    status = path.stat()
    return f"{status.st_ino} {status.st_ctime_ns}"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(images: ImageFiles, path: Path, count: int) -> None:
    """Decode the images into the file `path`. count: the number of bytes."""
    for stale in path.parent.glob(f".{path.name}.*"):  # left behind by a process that was killed
        stale.unlink()
    with replacing(path) as temporary, temporary.open("wb") as file:
        # On a full disk, this call raises an error. Without it, a write to the mapped memory would crash the process.
        if hasattr(os, "posix_fallocate"):  # macOS has none
            os.posix_fallocate(file.fileno(), 0, count)
        else:
            for start in range(0, count, BLOCK):
                file.write(bytes(min(BLOCK, count - start)))
            file.flush()
        images.load(torch.from_file(str(temporary), shared=True, size=count, dtype=torch.uint8))
