"""Sources of texts with a class each: files in folders, a column of a CSV file, and the docs of Python's code."""

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from lamella.data.folders import left_out_text
from lamella.data.samples import Samples, Splits
from lamella.data.sources import class_files
from lamella.data.table_columns import group_column
from lamella.data.text_encoder import TextEncoder, Texts
from lamella.data.text_files import decode_text, library_files, read_text_file
from lamella.errors import RequestError, nearest
from lamella.tables import read_csv

SUFFIXES = (".txt",)
SHORTEST = 60  # the letters that a paragraph of the docs of Python's code has at least


def text(root: str, classes: Sequence[str], length: int, tokens: str = "bytes", vocabulary: int = 256) -> Splits:
    """Return the texts in `root/train/<class>/*.txt`, and in `root/val/` and `root/test/` if these folders exist.

    Without `root/train`, the folders in `root` are the classes. classes: the names of the folders, in the order of the
    class indices. length, tokens, vocabulary: as in `TextEncoder`. Raises RequestError for a class without texts, and
    for a file that is empty, binary or not in UTF-8.
    """
    files, left_out, notes = class_files(root, list(classes), SUFFIXES, "texts (.txt)")
    parts = {
        name: Samples(
            Texts([decode_text(read_text_file(path, "data.root"), path, "data.root") for path in paths]),
            torch.tensor(targets),
        )
        for name, (paths, targets) in files.items()
    }
    encoder = TextEncoder(length, tokens, vocabulary)
    notes = [*notes, *_notes(parts["train"], length, tokens)]
    return Splits(parts["train"], parts.get("val"), parts.get("test"), left_out_text(left_out), notes, encoder)


def text_csv(
    path: str,
    column: str,
    target: str,
    classes: Sequence[str],
    length: int,
    tokens: str = "bytes",
    vocabulary: int = 256,
    groups: str | None = None,
) -> Splits:
    """Return the texts in the column `column` of a CSV file, whose classes are in the column `target`.

    classes: the values of that column, in the order of the class indices. length, tokens, vocabulary: as in
    `TextEncoder`. groups: the column that names the group of each row. Raises RequestError for a column or a class that
    is missing, and for a cell without a text or a group.
    """
    table = read_csv(path, "data.path")
    for key, name in (("column", column), ("target", target)):
        if name not in table.columns:
            raise RequestError(
                f"data.{key} is {name!r}; {path} has no such column; {nearest(name, table.columns)}", f"data.{key}"
            )
    numbers, targets = {str(name): number for number, name in enumerate(classes)}, []
    for row, cell, name in zip(table.rows, table.columns[column], table.columns[target], strict=True):
        if not cell or name not in numbers:
            key, problem = ("column", "holds no text") if not cell else ("target", f"is {name!r}, which is no class")
            title = column if not cell else target
            raise RequestError(f"data.{key}: in row {row} of {path}, {title} {problem}", f"data.{key}")
        targets.append(numbers[name])
    samples = Samples(Texts(table.columns[column]), torch.tensor(targets), group_column(table, groups))
    encoder = TextEncoder(length, tokens, vocabulary, column=column)
    return Splits(samples, notes=_notes(samples, length, tokens), encoder=encoder)


def docstrings(classes: Sequence[str], length: int, tokens: str = "words", vocabulary: int = 10_000) -> Splits:
    """Return paragraphs from the docstrings and comments of packages in Python's standard library.

    classes: the packages; each is a class. A paragraph has at least SHORTEST letters, and is taken once. length,
    tokens, vocabulary: as in `TextEncoder`. The texts depend on the version of Python alone. Raises RequestError for a
    package that this Python lacks.
    """
    found: dict[str, int] = {}
    for number, name in enumerate(classes):
        before = len(found)
        for path in library_files(name) if name.isidentifier() else []:
            for paragraph in _paragraphs(Path(path).read_text("utf-8")):
                if len(paragraph) >= SHORTEST:
                    found.setdefault(paragraph, number)
        if len(found) == before:
            raise RequestError(f"data.classes names {name!r}, and this Python has no such package", "data.classes")
    samples = Samples(Texts(list(found)), torch.tensor(list(found.values())))
    return Splits(samples, encoder=TextEncoder(length, tokens, vocabulary))


def _paragraphs(code: str) -> Iterator[str]:
    """Yield the paragraphs of the docstrings in a source file, then those of its comments, each as one line."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    blocks = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(code)) if isinstance(node, documented)]
    lines = [line.strip() for line in code.splitlines()]
    # Lines of code separate the comments around them as a blank line does.
    blocks.append("\n".join(line.lstrip("#").strip() if line.startswith("#") else "" for line in lines))
    for block in blocks:
        yield from (" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", block) if paragraph.strip())


def _notes(samples: Samples, length: int, tokens: str) -> list[str]:
    """Return a note if most texts are cut."""
    texts = samples.inputs
    assert isinstance(texts, Texts)
    counts = [len(part.encode()) if tokens == "bytes" else len(part.split()) for part in texts.texts]
    longer = sum(count > length for count in counts)
    if longer <= len(counts) / 2:
        return []
    return [
        f"{longer:,} of {len(counts):,} texts are longer than data.length, {length} {tokens}, and are cut; the longest "
        f"has {max(counts):,}"
    ]
