"""lamella predict RUN PATH…: compute what a network says of images, texts or the rows of tables, or continue a text.

lamella predict outputs/mnist/defaults photo.png more/
lamella predict outputs/mnist/defaults 'scans/**/*.jpg' --top 3 --out scans.csv
lamella predict outputs/houses/defaults new.csv --out prices.csv
lamella predict outputs/reviews/defaults new.txt --lines --out classes.csv
lamella predict outputs/char_gpt/experiment=char_gpt --prompt 'def main(' --tokens 400
lamella predict outputs/unet_shapes/defaults photo.png --out masks/
lamella predict outputs/default/folds --out out_of_fold.json
lamella predict outputs/default/folds photo.png
find . -name '*.png' | lamella predict outputs/mnist/defaults - --out all.jsonl
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamella.commands.parser import CommandParser
from lamella.commands.predict_inputs import find_files, reader_of
from lamella.commands.predict_pictures import Pictures
from lamella.commands.predict_rows import ENDINGS, FORMATS, class_lines, number_lines, write_rows
from lamella.commands.predict_sweep import (
    OUT_OF_FOLD,
    check_alike,
    check_folds,
    finished_members,
    out_of_fold,
    predictions,
)
from lamella.console import print
from lamella.errors import RequestError
from lamella.runs.files import check_output_path
from lamella.runs.reader import read_run, unfinished_note
from lamella.runs.sweep_directory import is_sweep
from lamella.tables import format_table

if TYPE_CHECKING:
    from lamella.commands.predict_rows import Row
    from lamella.experiment.model import Model

SAMPLING = ("tokens", "temperature", "seed")  # the options of a text that is continued, beside --top
SHOWN_ROWS = 50  # on the screen, if all rows are written into a file


def main(arguments: list[str]) -> int:
    """Print what a network says of files, and return the exit status: 1 if a file cannot be read as an image."""
    options = _parse(arguments)
    if (options.run / "run.json").exists() or not is_sweep(options.run):
        runs = [options.run]
        record, _ = read_run(options.run)
        if note := unfinished_note(record):
            print(note, file=sys.stderr)
    else:
        runs = finished_members(options.run)
        _check_sweep(options, runs)

    from lamella.experiment.model import load
    from lamella.training.device import resolve_accelerator

    signal.signal(signal.SIGINT, signal.default_int_handler)  # so that the progress bar shows the cursor again
    models = [load(run, options.checkpoint, resolve_accelerator("auto")) for run in runs]
    check_alike(runs, models)
    if options.prompt is not None:
        print(options.prompt + models[0].generate(options.prompt, **_sampling(options)))
        return 0
    if not options.paths:
        _show(out_of_fold(runs, models, options.checkpoint), models[0], "samples", options)
        return 0
    return _predict_files(runs, models, options)


def _predict_files(runs: "Sequence[Path]", models: "Sequence[Model]", options: argparse.Namespace) -> int:
    """Print what networks say of files, and return the exit status."""
    readers, model = [reader_of(model, run, options.lines) for run, model in zip(runs, models, strict=True)], models[0]
    reader = readers[0]
    files = find_files(options.paths, reader)
    pictures = Pictures(model, options.out, files) if model.has_masks or model.reconstructs else None
    if options.out and pictures is None and options.out.suffix not in FORMATS:
        raise RequestError(f"--out {options.out}: {ENDINGS}")
    rows: list[Row] = []
    unreadable = 0
    for name, result in predictions(models, readers, files):
        if isinstance(result, str):
            unreadable += 1
            print(f"skipped: {result}", file=sys.stderr)
        else:
            rows.append(({reader.noun: name}, pictures.add(name, result) if pictures else result))
    _show(rows, model, reader.samples, options, pictures)
    if unreadable:
        print(f"error: {unreadable:,} of {len(files):,} files cannot be read as images", file=sys.stderr)
    return 1 if unreadable else 0


def _show(
    rows: "Sequence[Row]", model: "Model", noun: str, options: argparse.Namespace, pictures: Pictures | None = None
) -> None:
    """Write the rows into a file if one is asked for, and print them. noun: what they are of."""
    if options.out and not pictures:
        write_rows(options.out, rows, model)
    if rows:
        shown = rows[: SHOWN_ROWS if options.out else None]
        if pictures:
            heads, *lines = pictures.lines([row for _, row in shown])
        else:
            heads, *lines = (
                number_lines(shown, model) if model.classes is None else class_lines(shown, model, options.top)
            )
        table = [[*map(str, known.values()), *line] for (known, _), line in zip(shown, lines, strict=True)]
        print(format_table([[*rows[0][0], *heads], *table], heads[:1:-1]))
    if options.out:
        print(f"\n{noun}: {len(rows):,}; all in {options.out}")


def _check_sweep(options: argparse.Namespace, runs: "Sequence[Path]") -> None:
    """Raise RequestError for what a sweep cannot be asked; set the file for out-of-fold predictions."""
    if options.prompt is not None:
        raise RequestError(f"--prompt: one network continues a text; give one member, as {runs[0]}")
    if options.checkpoint not in ("best", "last"):
        raise RequestError(f"--checkpoint {options.checkpoint}: for a sweep it is best or last, of each member")
    if not options.paths:
        check_folds(options.run, runs)
        options.out = options.out or options.run / OUT_OF_FOLD
        if options.out.suffix not in FORMATS:
            raise RequestError(f"--out {options.out}: {ENDINGS}")


def _parse(arguments: list[str]) -> argparse.Namespace:
    """Return the options. Raises RequestError for a value that is not possible."""
    parser = CommandParser(__doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory, or a sweep for the mean of its members")
    parser.add_argument(
        "paths",
        metavar="PATH",
        nargs="*",
        help="files, folders, patterns; - for a list on stdin; none for the out-of-fold predictions of a sweep",
    )
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
        if not options.paths and not is_sweep(options.run):
            raise RequestError("PATH is missing; name files, or write --prompt TEXT for a run that continues texts")
    elif options.paths or options.out or options.lines:
        unused = options.paths[0] if options.paths else "--out" if options.out else "--lines"
        raise RequestError(f"{unused}: with --prompt, the text is printed and no files are read; leave it out")
    elif options.seed is not None and options.seed < 0:
        raise RequestError(f"--seed is {options.seed}; it takes 0 or more")


def _sampling(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options that are given for a text that is continued."""
    return {name: getattr(options, name) for name in (*SAMPLING, "top") if getattr(options, name) is not None}
