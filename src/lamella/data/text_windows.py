"""Windows of text for the prediction of the next byte."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lamella.data.folders import left_out_text
from lamella.data.samples import Samples, Splits
from lamella.data.text_files import find_text_files, library_files, read_text_file
from lamella.errors import RequestError

LIBRARY_SIZE = 4_000_000  # the bytes that are read of Python's standard library


class NextByte:
    """Turns texts into bytes and bytes into texts, for networks that predict the next byte at each position.

    It is an Encoder (data/samples.py) that learns nothing. length: the longest context that the network takes.
    """

    def __init__(self, length: int) -> None:
        self.length = length

    def fit(self, samples: Samples) -> None:
        """Learn nothing."""

    def encode(self, samples: Samples) -> Samples:
        """Return the samples as they are."""
        return samples

    def state(self) -> dict[str, object]:
        """Return the `_target_` and the arguments of an equal encoder."""
        return {"_target_": "lamella.data.NextByte", "length": self.length}

    def read(self, path: str) -> tuple[list[str], Tensor]:
        """Raise RequestError, because such a network continues a text."""
        raise RequestError(f"{path}: this run predicts the next byte of a text; write --prompt TEXT instead of files")

    def noun(self) -> str:
        """Return what is predicted for."""
        return "text"

    def decode(self, outputs: Tensor) -> Tensor:
        """Return the outputs as they are."""
        return outputs

    def output_names(self) -> list[str]:
        """Return no names, because the outputs are no numbers."""
        return []

    def tokens(self, text: str) -> list[int]:
        """Return the bytes of a text in UTF-8."""
        return list(text.encode())

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of bytes, with a replacement character for what is no UTF-8."""
        return bytes(tokens).decode(errors="replace")


def characters(
    length: int,
    paths: Sequence[str] | None = None,
    size: int | None = None,
    vocabulary: int = 256,
    val_size: int | float = 0.1,
    test_size: int | float = 0.1,
) -> Splits:
    """Return windows of text: inputs int16 (N, length), and as targets the same shifted by one, uint8 (N, length).

    paths: files, folders or patterns, whose texts are joined in their order; None takes the sources of Python's
    standard library, always in the same order. size: the number of bytes that are read at most; None takes all of them, and
    LIBRARY_SIZE of the standard library. vocabulary: each byte is below it. The windows do not overlap. val_size,
    test_size: a number of windows or a fraction of the text; the test is the end of the text, and the validation what
    comes before it, so that no window is in two of them. Raises RequestError for files that are empty or binary, for a
    byte beyond the vocabulary, and for a part of the text that is shorter than a window.
    """
    if length < 1:
        raise RequestError(f"data.length is {length}; it takes 1 or more", "data.length")
    text, left_out, notes = _read(paths, size, vocabulary)
    whole = f"the text{f' of {paths[0]}' if paths and len(paths) == 1 else ''} has {len(text):,} bytes"
    if len(text) <= length:
        raise RequestError(
            f"data.length is {length:,}, but {whole}; take a smaller data.length, or more text", "data.length"
        )
    test, val = (
        _part_length(part, len(text), length, f"data.{name}_size")
        for name, part in (("test", test_size), ("val", val_size))
    )
    sizes = {"training": len(text) - val - test, "validation": val, "test": test}
    for name, count in sizes.items():
        if count <= length and not (name == "validation" and val_size == 0):
            key = "data.length" if name == "training" else f"data.{'val' if name == 'validation' else 'test'}_size"
            raise RequestError(
                f"{key}: {whole}, of which {max(count, 0):,} are for {name}, where a window takes {length + 1:,}; "
                "take a smaller data.length, or more text",
                key,
            )
    parts = torch.split(torch.frombuffer(bytearray(text), dtype=torch.uint8), list(sizes.values()))
    train, validation, tested = (_windows(part, length) for part in parts)
    return Splits(train, validation if val_size else None, tested, left_out, notes, NextByte(length))


def _read(paths: Sequence[str] | None, size: int | None, vocabulary: int) -> tuple[bytes, str, list[str]]:
    """Return the text, what was left out, and notes. Raises RequestError."""
    if size is not None and size < 1:
        raise RequestError(f"data.size is {size}; it takes a number of bytes, or null for all", "data.size")
    if isinstance(paths, str):
        raise RequestError(f"data.paths is {paths!r}; it takes a list, as data.paths=[{paths}]", "data.paths")
    if paths is None:
        return _joined(library_files(), size or LIBRARY_SIZE, vocabulary), "", []
    files, left_out = find_text_files(paths)
    text = _joined(files, None, vocabulary)
    notes = []
    if size is not None and size < len(text):
        notes.append(f"data.size is {size:,}, so that the other {len(text) - size:,} bytes of the text are not read")
    return text[:size], left_out_text(left_out), notes


def _joined(files: Sequence[str], size: int | None, vocabulary: int) -> bytes:
    """Return the text of files, of the standard library without empty ones. Raises RequestError."""
    text = bytearray()
    for path in files:
        if size is None:
            part = read_text_file(path, "data.paths")
        else:
            with open(path, "rb") as file:
                part = file.read()
        if vocabulary < 256 and (beyond := max(part, default=0)) >= vocabulary:
            raise RequestError(
                f"data.num_classes is {vocabulary}, but {path} has the byte {beyond} at {part.index(beyond):,}; "
                "all bytes take data.num_classes=256",
                "data.num_classes",
            )
        text += part
        if size is not None and len(text) >= size:
            break
    return bytes(text[:size])


def _part_length(size: int | float, total: int, length: int, key: str) -> int:
    """Return the bytes of a part of the text. size: a number of windows, or a fraction. Raises RequestError."""
    if size < 0 or (isinstance(size, float) and size >= 1 and not size.is_integer()):
        raise RequestError(f"{key} is {size}; it takes a number of windows, or a fraction below 1", key)
    if size == 0:
        return 0
    return round(size * total) if size < 1 else int(size) * length + 1


def _windows(text: Tensor, length: int) -> Samples:
    """Return the windows of a part of the text, uint8 (bytes,)."""
    count = max(0, len(text) - 1) // length
    inputs, targets = (text[start : start + count * length].view(count, length) for start in (0, 1))
    return Samples(inputs.to(torch.int16), targets.clone())
