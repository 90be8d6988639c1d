"""What `lamella predict` reads: image files, or files in which each row or the whole file is a sample."""

import sys
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lamella.console import print
from lamella.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor

    from lamella.data.decoder import Decoder
    from lamella.data.samples import Encoder
    from lamella.data.text_encoder import TextEncoder
    from lamella.experiment.model import Model

    Item = tuple[str, Tensor | str]

BATCH = 256  # samples that are read and predicted together


class Reader(Protocol):
    """What a model takes: files that are found by the arguments of the command, and read as samples.

    noun: what the name of a sample is the name of. samples: what all of them are called.
    """

    noun: str
    samples: str

    def in_folder(self, folder: str) -> list[str]:
        """Return the files in a folder. Raises RequestError if there are none."""

    def batches(self, files: list[str]) -> "Iterator[list[Item]]":
        """Yield samples: the name of each, and its input or the reason why it cannot be read. Raises RequestError."""


def reader_of(model: "Model", run: Path, lines: bool = False) -> Reader:
    """Return what a model takes. lines: each line of a file is a text. Raises RequestError for what it cannot take."""
    from lamella.data.text_encoder import TextEncoder

    if model.stacks:
        raise RequestError(
            f"{run}: its network has the stacks {', '.join(model.stacks)}, which a step of the task's own runs, and "
            f"predict does not know which to call; in Python lamella.load(…).network[{model.stacks[0]!r}] is one"
        )
    if lines:
        if not isinstance(model.encoder, TextEncoder):
            raise RequestError(f"--lines: {run} was not trained on texts; leave it out")
        return LineReader(model.encoder)
    if model.encoder is not None:
        return FileReader(model.encoder)
    if model.decoder is not None and (model.classes is not None or model.reconstructs or model.is_own):
        return ImageReader(model.decoder)
    problem = "gives numbers, not classes" if model.classes is None else "was not trained on images or tables"
    raise RequestError(f"{run}: its network {problem}; lamella.load(…).predict(…) in Python takes tensors")


def find_files(paths: Iterable[str], reader: Reader) -> list[str]:
    """Return the files that the arguments name, each once. Raises RequestError for an argument that names none.

    An argument is a file, a folder, a pattern, or - for a list of files on standard input.
    """
    from lamella.data.folders import find_matches

    found: list[str] = []
    for given in paths:
        path = Path(given)
        if given == "-":
            listed = [line for line in sys.stdin.read().splitlines() if line.strip()]
            if not listed:
                raise RequestError("-: no path came on standard input")
            found += listed
        elif path.is_dir():
            found += reader.in_folder(given)
        elif path.exists():
            found.append(given)
        else:
            matched = find_matches(given)
            if not matched:
                raise RequestError(f"{given}: there is no such file or folder, and as a pattern it matches none")
            found += matched
    return list(dict.fromkeys(found))


class ImageReader:
    """Image files, each of which is a sample; they are decoded as in training."""

    noun, samples = "file", "images"

    def __init__(self, decoder: "Decoder") -> None:
        self.decoder = decoder

    def in_folder(self, folder: str) -> list[str]:
        """Return the images in a folder, and print what else is there. Raises RequestError if there are none."""
        from lamella.data.folders import IMAGE_SUFFIXES, find_images, left_out_text

        inside, others = find_images(Path(folder))
        left_out = left_out_text(others)
        if not inside:
            raise RequestError(
                f"{folder}: no images in this folder; their names end with {', '.join(sorted(IMAGE_SUFFIXES))}"
                f"{f'; {left_out}' if left_out else ''}"
            )
        if left_out:
            print(f"{folder}: {left_out}", file=sys.stderr)
        return inside

    def batches(self, files: list[str]) -> "Iterator[list[Item]]":
        """Yield the names and the pixels of images, with a progress bar on a terminal."""
        from PIL import Image

        from lamella.data.images import progress

        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # an image that is too large is skipped
        starts = range(0, len(files), BATCH)
        with ThreadPoolExecutor() as pool:
            batches = (list(pool.map(self._decoded, files[start : start + BATCH])) for start in starts)
            yield from progress(batches, len(starts), "images")

    def _decoded(self, path: str) -> "Item":
        from lamella.data.decoder import UnreadableImages

        try:
            return path, self.decoder.file(path)
        except UnreadableImages as error:
            return path, error.problems[0]


class FileReader:
    """Files from which an encoder reads samples."""

    def __init__(self, encoder: "Encoder") -> None:
        self.encoder, self.noun = encoder, encoder.noun()
        self.samples = f"{self.noun}s"

    def in_folder(self, folder: str) -> list[str]:
        """Raise RequestError, because only the user knows which files of a folder are meant."""
        ending = "txt" if self.noun == "text" else "csv"
        raise RequestError(f"{folder}: this is a folder; name the files, as '{folder.rstrip('/')}/*.{ending}'")

    def batches(self, files: list[str]) -> "Iterator[list[Item]]":
        """Yield the names and the inputs of the samples in files. Raises RequestError that names the place."""
        for file in files:
            names, inputs = self.read(file)
            for start in range(0, len(names), BATCH):
                yield list(zip(names[start : start + BATCH], inputs[start : start + BATCH], strict=True))

    def read(self, file: str) -> "tuple[list[str], Tensor]":
        """Return the names and the inputs of the samples in a file. Raises RequestError."""
        return self.encoder.read(file)


class LineReader(FileReader):
    """Files in which each line that is not blank is a text."""

    def __init__(self, encoder: "TextEncoder") -> None:
        super().__init__(encoder)
        self.texts = encoder

    def read(self, file: str) -> "tuple[list[str], Tensor]":
        """Return the numbers and the tokens of the lines of a file. Raises RequestError."""
        from lamella.data.text_files import decode_text, read_text_file

        lines = enumerate(decode_text(read_text_file(file), file).splitlines(), 1)
        texts = {f"{file}:{number}": line for number, line in lines if line.strip()}
        return list(texts), self.texts.rows(list(texts.values()))
