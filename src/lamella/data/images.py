"""Image files that are decoded to uint8 tensors."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import get_worker_info

from lamella.data.decoder import Decoder, UnreadableImages
from lamella.distributed import rank

T = TypeVar("T")


class ImageFiles:
    """Image files that are decoded when they are indexed, to uint8 (B, *shape).

    paths: all files of a folder, which share a cache. rows: the files that are selected, in their order; by default
    all.
    """

    def __init__(self, paths: "Sequence[str] | np.ndarray", decoder: Decoder, rows: Tensor | None = None) -> None:
        self.paths: np.ndarray = np.asarray(paths)  # one block of memory, which forked workers share
        self.decoder = decoder
        self.rows = torch.arange(len(paths)) if rows is None else rows
        self._sums: np.ndarray | None = None  # set once the files are checked

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Return the images with these indices, decoded. Raises UnreadableImages."""
        paths = self._selected(indices)
        if get_worker_info():  # other workers have the other cores
            return torch.stack([self.decoder.file(path) for path in paths])
        with ThreadPoolExecutor() as pool:
            return torch.stack([*pool.map(self.decoder.file, paths)])

    def take(self, indices: Tensor) -> "ImageFiles":
        """Return a selection of the files."""
        return ImageFiles(self.paths, self.decoder, self.rows[indices])

    def whole(self) -> "ImageFiles":
        """Return all files from which these are selected."""
        return ImageFiles(self.paths, self.decoder)

    def load(self, out: Tensor | None = None) -> Tensor:
        """Return all images, uint8 (N, *shape), with a progress bar on a terminal.

        out: a uint8 tensor of as many numbers that they are written to. Raises UnreadableImages.
        """
        shape = self.decoder.shape
        out = torch.empty(len(self), *shape, dtype=torch.uint8) if out is None else out.view(-1, *shape)
        problems = list[str]()
        for number, image in enumerate(self.decoded()):
            if isinstance(image, UnreadableImages):
                problems += image.problems
            else:
                out[number] = image
        if problems:
            raise UnreadableImages(*problems)
        return out

    def decoded(self) -> Iterator["Tensor | UnreadableImages"]:
        """Yield each image, uint8 of the shape, or the error of a file that is no image."""
        return self._each(self.decoder.file, "decoding images")

    def sizes(self) -> np.ndarray:
        """Return the height and the width of each file that can be read, as it is shown, int64 (files, 2)."""
        found = self._each(self.decoder.size, "reading sizes")
        return np.array([one for one in found if not isinstance(one, UnreadableImages)], np.int64).reshape(-1, 2)

    def check(self) -> None:
        """Raise UnreadableImages if a file is no image. Little of a file is read, as long as none is damaged."""
        if self._sums is not None:
            return
        sums = np.empty(len(self), np.uint32)
        for number, result in enumerate(self._each(self.decoder.check, "checking images")):
            if isinstance(result, UnreadableImages):
                raise UnreadableImages(*self.problems().values())
            sums[number] = result
        self._sums = sums

    def checksums(self) -> np.ndarray | None:
        """Return a checksum of each file, uint32 (N,), as `Decoder.check` makes it; None before `check`."""
        return self._sums

    def problems(self) -> dict[int, str]:
        """Return why files are no images, by their indices, after decoding all files."""
        results = enumerate(self._each(lambda path: bool(len(self.decoder.file(path))), "checking images"))
        return {number: result.problems[0] for number, result in results if isinstance(result, UnreadableImages)}

    def _selected(self, indices: Tensor | slice = slice(None)) -> list[str]:
        return [str(path) for path in self.paths[self.rows[indices].numpy()]]

    def _each(self, function: Callable[[str], T], text: str) -> Iterator[T | UnreadableImages]:
        """Yield what a function returns for each file, or the error that it raises; several threads call it."""

        def result(path: str) -> T | UnreadableImages:
            try:
                return function(path)
            except UnreadableImages as error:
                return error

        with ThreadPoolExecutor() as pool:
            yield from progress(pool.map(result, self._selected()), len(self), text)


def progress(items: Iterable[T], total: int, text: str) -> Iterator[T]:
    """Yield the items, with a progress bar while they are made, if standard error is a terminal."""
    console = Console(file=sys.__stderr__)
    shown = console.is_terminal and rank() == 0
    yield from track(items, text, total, console=console, transient=True, disable=not shown)
