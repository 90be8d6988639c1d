"""lamella predict RUN PATH…: compute what a network says of images, texts or the rows of tables, or continue a text.

lamella predict outputs/mnist/defaults photo.png more/
lamella predict outputs/mnist/defaults 'scans/**/*.jpg' --top 3 --out scans.csv
lamella predict outputs/houses/defaults new.csv --out prices.csv
lamella predict outputs/reviews/defaults new.txt --lines --out classes.csv
lamella predict outputs/char_gpt/experiment=char_gpt --prompt 'def main(' --tokens 400
lamella predict outputs/unet_shapes/defaults photo.png --out masks/
find . -name '*.png' | lamella predict outputs/mnist/defaults - --out all.jsonl
"""

import argparse
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamella.atomic_files import write_atomically
from lamella.commands.parser import CommandParser
from lamella.commands.predict_inputs import find_files, reader_of
from lamella.commands.predict_pictures import Pictures
from lamella.console import print
from lamella.errors import RequestError
from lamella.runs.files import check_output_path
from lamella.runs.reader import read_run, unfinished_note
from lamella.tables import format_csv, format_table

if TYPE_CHECKING:
    from torch import Tensor

    from lamella.commands.predict_inputs import Item
    from lamella.experiment.model import Model

FORMATS = (".csv", ".json", ".jsonl")
SAMPLING = ("tokens", "temperature", "seed")  # the options of a text that is continued, beside --top
ENDINGS = "the name must end in .csv, .json or .jsonl"
SHOWN_ROWS = 50  # on the screen, if all rows are written into a file


def main(arguments: list[str]) -> int:
    """Print what a network says of files, and return the exit status: 1 if a file cannot be read as an image."""
    options = _parse(arguments)
    record, _ = read_run(options.run)
    if note := unfinished_note(record):
        print(note, file=sys.stderr)

    from lamella.experiment.model import load
    from lamella.training.device import resolve_accelerator

    signal.signal(signal.SIGINT, signal.default_int_handler)  # so that the progress bar shows the cursor again
    model = load(options.run, options.checkpoint, resolve_accelerator("auto"))
    if options.prompt is not None:
        print(options.prompt + model.generate(options.prompt, **_sampling(options)))
        return 0
    reader = reader_of(model, options.run, options.lines)
    files = find_files(options.paths, reader)
    pictures = Pictures(model, options.out, files) if model.has_masks or model.reconstructs else None
    if options.out and pictures is None and options.out.suffix not in FORMATS:
        raise RequestError(f"--out {options.out}: {ENDINGS}")
    rows, unreadable = [], 0
    for name, result in _predictions(model, reader.batches(files)):
        if isinstance(result, str):
            unreadable += 1
            print(f"skipped: {result}", file=sys.stderr)
        else:
            rows.append((name, pictures.add(name, result) if pictures else result))
    if options.out and not pictures:
        _write(options.out, rows, reader.noun, model)
    if rows:
        shown = rows[: SHOWN_ROWS if options.out else None]
        if pictures:
            heads, *lines = pictures.lines(shown)
        else:
            heads, *lines = (
                _number_lines(shown, model) if model.classes is None else _class_lines(shown, model, options.top)
            )
        table = [[name, *line] for (name, _), line in zip(shown, lines, strict=True)]
        print(format_table([[reader.noun, *heads], *table], heads[:1:-1]))
    if options.out:
        print(f"\n{reader.samples}: {len(rows):,}; all in {options.out}")
    if unreadable:
        print(f"error: {unreadable:,} of {len(files):,} files cannot be read as images", file=sys.stderr)
    return 1 if unreadable else 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    """Return the options. Raises RequestError for a value that is not possible."""
    parser = CommandParser(__doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory")
    parser.add_argument("paths", metavar="PATH", nargs="*", help="files, folders, patterns; - for a list on stdin")
    parser.add_argument(
        "--top",
        type=int,
        metavar="K",
        help="how many classes to name; default: 3; of how many bytes to draw; default: 40",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE|FOLDER",
        help="every class's probability, or the numbers: .csv, .json or .jsonl; a folder for pictures",
    )
    parser.add_argument("--checkpoint", default="best", metavar="best|last|NAME|PATH", help="default: best")
    parser.add_argument("--lines", action="store_true", help="each line of a file is a text")
    parser.add_argument("--prompt", metavar="TEXT", help="the beginning of a text, which is printed and continued")
    parser.add_argument("--tokens", type=int, metavar="N", help="how many bytes to add to the prompt; default: 200")
    parser.add_argument("--temperature", type=float, metavar="T", help="0 takes the best byte; default: 0.8")
    parser.add_argument("--seed", type=int, metavar="N", help="of the bytes that are drawn; default: 0")
    options = parser.parse_intermixed_args(arguments)
    _check_prompt(options)
    if options.prompt is None and options.top is None:
        options.top = 3
    if options.top is not None and options.top < 1:
        raise RequestError(f"--top is {options.top}; it takes 1 or more")
    if options.out and options.out.suffix not in (*FORMATS, ""):
        raise RequestError(f"--out {options.out}: {ENDINGS}")
    if options.out and not options.out.absolute().parent.is_dir():
        raise RequestError(f"--out {options.out}: there is no directory {options.out.parent}")
    if options.out and options.out.suffix:
        check_output_path(options.out)
    return options


def _check_prompt(options: argparse.Namespace) -> None:
    """Raise RequestError for options that have no effect with, or without, a text that is continued."""
    if options.prompt is None:
        if unused := next((name for name in SAMPLING if getattr(options, name) is not None), None):
            raise RequestError(f"--{unused} is for a text that is continued; add --prompt TEXT")
        if not options.paths:
            raise RequestError("PATH is missing; name files, or write --prompt TEXT for a run that continues texts")
    elif options.paths or options.out or options.lines:
        unused = options.paths[0] if options.paths else "--out" if options.out else "--lines"
        raise RequestError(f"{unused}: with --prompt, the text is printed and no files are read; leave it out")
    elif options.seed is not None and options.seed < 0:
        raise RequestError(f"--seed is {options.seed}; it takes 0 or more")


def _sampling(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options that are given for a text that is continued."""
    return {name: getattr(options, name) for name in (*SAMPLING, "top") if getattr(options, name) is not None}


def _predictions(model: "Model", batches: "Iterator[list[Item]]") -> "Iterator[Item]":
    """Yield the name of each sample with what the model says of it, or with the reason why it cannot be read."""
    import torch

    for batch in batches:
        inputs = [item for _, item in batch if not isinstance(item, str)]
        answers = iter(model.predict(torch.stack(inputs)) if inputs else ())
        for name, item in batch:
            yield name, item if isinstance(item, str) else next(answers)


def _class_lines(rows: "Sequence[tuple[str, Tensor]]", model: "Model", top: int) -> list[list[str]]:
    """Return the headings, and for each row its `top` most probable classes."""
    classes = model.output_names
    top = min(top, len(classes))
    lines = [["class", "probability", *(f"{number}." for number in range(2, top + 1))]]
    for _, row in rows:
        values, numbers = row.topk(top)
        named = [
            (classes[number], f"{value:.4f}") for value, number in zip(values.tolist(), numbers.tolist(), strict=True)
        ]
        lines.append([*named[0], *(" ".join(pair) for pair in named[1:])])
    return lines


def _number_lines(rows: "Sequence[tuple[str, Tensor]]", model: "Model") -> list[list[str]]:
    """Return the names of the numbers, and the numbers of each row."""
    lines = [[f"{value:.6g}" for value in row.flatten().tolist()] for _, row in rows]
    return [_names(rows, model), *lines]


def _names(rows: "Sequence[tuple[str, Tensor]]", model: "Model") -> list[str]:
    """Return the names of the numbers in a row. Those of a LightningModule of the project's own are counted from 0."""
    return [str(number) for number in range(rows[0][1].numel())] if model.is_own and rows else model.output_names


def _write(out: Path, rows: "Sequence[tuple[str, Tensor]]", noun: str, model: "Model") -> None:
    """Write the probability of each class, or the numbers, for each row. Raises RequestError if that fails."""
    names, classes = _names(rows, model), model.classes
    said = [
        ({noun: name} | ({"class": classes[int(row.argmax())]} if classes else {}), row.flatten().tolist())
        for name, row in rows
    ]
    key = "probabilities" if classes else "prediction"
    dicts = [{**head, key: dict(zip(names, values, strict=True))} for head, values in said]
    if out.suffix == ".csv":
        heads = [noun, *(["class"] if classes else []), *names]
        text = format_csv([heads, *([*head.values(), *values] for head, values in said)])
    elif out.suffix == ".json":
        text = json.dumps(dicts, indent=1)
    else:
        text = "".join(json.dumps(row) + "\n" for row in dicts)
    try:
        write_atomically(out, text)
    except OSError as error:
        raise RequestError(f"--out {out}: cannot write there ({error.strerror})") from error
