"""Look at every sample of a split once: its digest, its hash if it is an image, and what is wrong with it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lamella.data.chunk import Served
from lamella.data.datamodule import Data
from lamella.data.datasets import Datasets
from lamella.data.decoder import UnreadableImages
from lamella.data.duplicates import digests
from lamella.data.images import ImageFiles
from lamella.data.near_duplicates import difference_hashes, standardized
from lamella.data.own_data import OwnData, RunData
from lamella.data.samples import NamedInputs, Samples

CHUNK = 512  # samples that are looked at together


@dataclass
class Survey:
    """What was found in a split. Arrays have an entry for each of the n samples that can be read.

    names: of the samples: the path of a file, or the number in the split. targets: (n, …). digests: of the inputs,
    uint64 (n,). hashes, small: of images, as `near_duplicates` makes them; empty for other samples. constant: whether
    all values of an input are equal. not_finite: how many values are NaN or infinite. unreadable: a text for each file
    that is no image. sizes: the height and the width of each image file (files, 2).
    """

    names: list[str] = field(default_factory=list)
    targets: Tensor = field(default_factory=lambda: torch.empty(0))
    digests: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    hashes: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    small: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float16))
    constant: np.ndarray = field(default_factory=lambda: np.empty(0, bool))
    not_finite: int = 0
    unreadable: list[str] = field(default_factory=list)
    sizes: np.ndarray = field(default_factory=lambda: np.empty((0, 2), np.int64))
    count: int = 0  # of pixels, with their sums and the sums of their squares for each channel
    sums: np.ndarray = field(default_factory=lambda: np.zeros(1))
    squares: np.ndarray = field(default_factory=lambda: np.zeros(1))

    @property
    def mean(self) -> np.ndarray:
        """Return the mean of the pixels of each channel, on the scale from 0 to 1."""
        mean: np.ndarray = self.sums / self.count
        return mean

    @property
    def std(self) -> np.ndarray:
        """Return the standard deviation of the pixels of each channel, on the scale from 0 to 1."""
        std: np.ndarray = np.sqrt(np.maximum(self.squares / self.count - self.mean**2, 0))
        return std


def survey(data: RunData, name: str) -> Survey:
    """Look at each sample of the split `name`. Batches that a datamodule makes have no samples to look at."""
    found, parts = Survey(), list[tuple[np.ndarray, ...]]()
    targets = []
    for inputs, batch_targets, names in _chunks(data, name, found):
        values = inputs if isinstance(inputs, Tensor) else NamedInputs(inputs)
        is_images = isinstance(inputs, Tensor) and inputs.dtype == torch.uint8 and inputs.dim() == 4
        tensors = [inputs] if isinstance(inputs, Tensor) else list(inputs.values())
        flat = [one.flatten(1) if one.dim() > 1 else one[:, None] for one in tensors]
        constant = np.logical_and.reduce([(one == one[:, :1]).all(1).numpy() for one in flat])
        found.not_finite += sum(int((~one.isfinite()).sum()) for one in flat if one.is_floating_point())
        digest = digests(values)
        assert digest is not None
        parts.append((digest, constant))
        if is_images:
            assert isinstance(inputs, Tensor)
            parts[-1] += (difference_hashes(inputs), standardized(inputs))
            pixels = inputs.double() / 255
            found.count += pixels[:, 0].numel()
            found.sums = found.sums + pixels.sum((0, 2, 3)).numpy()
            found.squares = found.squares + pixels.square().sum((0, 2, 3)).numpy()
        targets.append(batch_targets)
        found.names += names
    for attribute, arrays in zip(("digests", "constant", "hashes", "small"), zip(*parts, strict=True), strict=False):
        setattr(found, attribute, np.concatenate(arrays))
    found.targets = torch.cat(targets) if targets else found.targets
    return found


def pictures(data: Data, name: str, names: Sequence[str]) -> list[Tensor]:
    """Return images of a split, uint8 (channels, height, width). names: as in `Survey`."""
    inputs = data.splits[name].inputs
    if isinstance(inputs, ImageFiles):
        return [inputs.decoder.file(path) for path in names]
    return [inputs[torch.tensor([int(number)])][0] for number in names]  # type: ignore[index]


def _chunks(data: RunData, name: str, found: Survey) -> Iterator[tuple[Served, Tensor, list[str]]]:
    """Yield the inputs, the targets and the names of some samples at a time, and note what cannot be read."""
    if isinstance(data, OwnData):
        if isinstance(data.source, Datasets):
            for numbers in torch.split(torch.arange(data.source.sizes[name]), CHUNK):
                if len(numbers):
                    inputs, targets = data.source.read(name, data.read, numbers)
                    yield inputs, targets, [str(number) for number in numbers.tolist()]
        return
    samples: Samples = data.splits[name]
    if isinstance(samples.inputs, ImageFiles):
        found.sizes = samples.inputs.sizes()
        yield from _decoded(samples, samples.inputs, found)
        return
    for numbers in torch.split(torch.arange(len(samples)), CHUNK):
        if len(numbers):
            taken = samples.take(numbers)
            served: Any = taken.inputs.tensors if isinstance(taken.inputs, NamedInputs) else taken.inputs
            yield served, taken.targets, [str(number) for number in numbers.tolist()]


def _decoded(samples: Samples, files: ImageFiles, found: Survey) -> Iterator[tuple[Tensor, Tensor, list[str]]]:
    """Yield what `_chunks` does for image files, each of which is decoded once."""
    images, numbers = list[Tensor](), list[int]()
    paths = files.paths[files.rows.numpy()]
    for number, image in enumerate(files.decoded()):
        if isinstance(image, UnreadableImages):
            found.unreadable += image.problems
        else:
            images.append(image)
            numbers.append(number)
        if images and (len(images) == CHUNK or number == len(files) - 1):
            yield torch.stack(images), samples.targets[numbers], [str(path) for path in paths[numbers]]
            images, numbers = [], []
