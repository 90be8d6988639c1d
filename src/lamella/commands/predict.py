"""lamella predict RUN PATH…: compute class probabilities for image files or folders.

lamella predict outputs/mnist/defaults photo.png more/
lamella predict outputs/mnist/defaults 'scans/**/*.jpg' --top 3 --out scans.csv
find . -name '*.png' | lamella predict outputs/mnist/defaults - --out all.jsonl
"""

import argparse
import json
import signal
import sys
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from lamella.atomic_files import write_atomically
from lamella.commands.parser import CommandParser
from lamella.console import print
from lamella.errors import RequestError
from lamella.runs.files import check_output_path
from lamella.runs.reader import read_run, unfinished_note
from lamella.tables import format_csv, format_table

if TYPE_CHECKING:
    from torch import Tensor

    from lamella.experiment.model import Model

FORMATS = (".csv", ".json", ".jsonl")
BATCH = 256  # images that are decoded and predicted together
SHOWN_ROWS = 50  # on the screen, if all rows are written into a file


def main(arguments: list[str]) -> int:
    """Print the classes of images, and return the exit status: 1 if a file cannot be read as an image."""
    options = _parse(arguments)
    record, _ = read_run(options.run)
    if note := unfinished_note(record):
        print(note, file=sys.stderr)

    from PIL import Image

    from lamella.experiment.model import load
    from lamella.training.device import resolve_accelerator

    signal.signal(signal.SIGINT, signal.default_int_handler)  # so that the progress bar shows the cursor again
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # an image that is too large is skipped
    files = list(dict.fromkeys(_files(options.paths)))
    model = load(options.run, options.checkpoint, resolve_accelerator("auto"))
    if model.classes is None or model.decoder is None:
        problem = "gives numbers, not classes" if model.classes is None else "was not trained on images"
        raise RequestError(f"{options.run}: its network {problem}; lamella.load(…).predict(…) in Python takes tensors")
    rows, unreadable = [], 0
    for path, result in _predictions(model, files):
        if isinstance(result, str):
            unreadable += 1
            print(f"skipped: {result}", file=sys.stderr)
        else:
            rows.append((path, result))
    if options.out:
        _write(options.out, rows, model.classes)
    if rows:
        print(_table(rows[: SHOWN_ROWS if options.out else None], model.classes, options.top))
    if options.out:
        print(f"\nimages: {len(rows):,}; all in {options.out}")
    if unreadable:
        print(f"error: {unreadable:,} of {len(files):,} files cannot be read as images", file=sys.stderr)
    return 1 if unreadable else 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    """Return the options. Raises RequestError for a value that is not possible."""
    parser = CommandParser(__doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory")
    parser.add_argument("paths", metavar="PATH", nargs="+", help="files, folders, patterns; - for a list on stdin")
    parser.add_argument("--top", type=int, default=3, metavar="K", help="how many classes to name; default: 3")
    parser.add_argument("--out", type=Path, metavar="FILE", help="every class's probability: .csv, .json or .jsonl")
    parser.add_argument("--checkpoint", default="best", metavar="best|last|PATH", help="default: best")
    options = parser.parse_args(arguments)
    if options.top < 1:
        raise RequestError(f"--top is {options.top}; it takes 1 or more")
    if options.out and options.out.suffix not in FORMATS:
        raise RequestError(f"--out {options.out}: the name must end in .csv, .json or .jsonl")
    if options.out and not options.out.absolute().parent.is_dir():
        raise RequestError(f"--out {options.out}: there is no directory {options.out.parent}")
    if options.out:
        check_output_path(options.out)
    return options


def _files(paths: Iterable[str]) -> Iterator[str]:
    """Yield the files that the arguments name. Raises RequestError for an argument that names none.

    An argument is a file, a folder, a pattern, or - for a list of files on standard input.
    """
    from lamella.data.folders import IMAGE_SUFFIXES, find_images, find_matches, left_out_text

    for given in paths:
        path = Path(given)
        if given == "-":
            listed = [line for line in sys.stdin.read().splitlines() if line.strip()]
            if not listed:
                raise RequestError("-: no path came on standard input")
            yield from listed
        elif path.is_dir():
            inside, others = find_images(path)
            left_out = left_out_text(others)
            if not inside:
                raise RequestError(
                    f"{given}: no images in this folder; their names end with {', '.join(sorted(IMAGE_SUFFIXES))}"
                    f"{f'; {left_out}' if left_out else ''}"
                )
            if left_out:
                print(f"{given}: {left_out}", file=sys.stderr)
            yield from inside
        elif path.exists():
            yield given
        else:
            matched = find_matches(given)
            if not matched:
                raise RequestError(f"{given}: there is no such file or folder, and as a pattern it matches none")
            yield from matched


def _predictions(model: "Model", files: list[str]) -> "Iterator[tuple[str, Tensor | str]]":
    """Yield each file with its probabilities (classes,), or with the reason why it cannot be read.

    A progress bar is shown on a terminal.
    """
    import torch

    from lamella.data.decoder import UnreadableImages
    from lamella.data.images import progress

    decoder = model.decoder
    assert decoder is not None

    def decode(path: str) -> "Tensor | str":
        try:
            return decoder.file(path)
        except UnreadableImages as error:
            return error.problems[0]

    starts = range(0, len(files), BATCH)
    with ThreadPoolExecutor() as pool:
        batches = (list(pool.map(decode, files[start : start + BATCH])) for start in starts)
        for start, batch in zip(starts, progress(batches, len(starts), "images"), strict=False):
            images = [image for image in batch if not isinstance(image, str)]
            probabilities = iter(model.predict(torch.stack(images)) if images else ())
            for path, image in zip(files[start : start + BATCH], batch, strict=True):
                yield path, image if isinstance(image, str) else next(probabilities)


def _table(rows: "list[tuple[str, Tensor]]", classes: list[str], top: int) -> str:
    """Return a table with the `top` most probable classes of each file."""
    top = min(top, len(classes))
    lines = [["file", "class", "probability", *(f"{number}." for number in range(2, top + 1))]]
    for path, row in rows:
        values, numbers = row.topk(top)
        named = [
            (classes[number], f"{value:.4f}") for value, number in zip(values.tolist(), numbers.tolist(), strict=True)
        ]
        lines.append([path, *named[0], *(" ".join(pair) for pair in named[1:])])
    return format_table(lines, lines[0][:2:-1])


def _write(out: Path, rows: "list[tuple[str, Tensor]]", classes: list[str]) -> None:
    """Write the probability of each class for each file. Raises RequestError if the file cannot be written."""
    named = [(path, classes[int(row.argmax())], row.tolist()) for path, row in rows]
    if out.suffix == ".csv":
        text = format_csv([["file", "class", *classes], *([path, name, *values] for path, name, values in named)])
    else:
        dicts = [
            {"file": path, "class": name, "probabilities": dict(zip(classes, values, strict=True))}
            for path, name, values in named
        ]
        if out.suffix == ".json":
            text = json.dumps(dicts, indent=1)
        else:
            text = "".join(json.dumps(row) + "\n" for row in dicts)
    try:
        write_atomically(out, text)
    except OSError as error:
        raise RequestError(f"--out {out}: cannot write there ({error.strerror})") from error
