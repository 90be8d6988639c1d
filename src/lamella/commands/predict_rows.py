"""The rows that `lamella predict` prints, and writes into a file: what a network says of each sample."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lamella.atomic_files import write_atomically
from lamella.errors import RequestError
from lamella.tables import format_csv

if TYPE_CHECKING:
    from torch import Tensor

    from lamella.experiment.model import Model

    Row = tuple[dict[str, object], Tensor]  # what is known of a sample, by its heading, and what the network says of it

FORMATS = (".csv", ".json", ".jsonl")
ENDINGS = "the name must end in .csv, .json or .jsonl"


def class_lines(rows: "Sequence[Row]", model: "Model", top: int) -> list[list[str]]:
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


def number_lines(rows: "Sequence[Row]", model: "Model") -> list[list[str]]:
    """Return the names of the numbers, and the numbers of each row."""
    return [_names(rows, model), *([f"{value:.6g}" for value in row.flatten().tolist()] for _, row in rows)]


def _names(rows: "Sequence[Row]", model: "Model") -> list[str]:
    """Return the names of the numbers in a row. Those of a LightningModule of the project's own are numbered."""
    return [f"output {number}" for number in range(rows[0][1].numel())] if model.is_own and rows else model.output_names


def write_rows(out: Path, rows: "Sequence[Row]", model: "Model") -> None:
    """Write the probability of each class, or the numbers, for each row. Raises RequestError if that fails."""
    names, classes = _names(rows, model), model.classes
    said = [
        (known | ({"class": classes[int(row.argmax())]} if classes else {}), row.flatten().tolist())
        for known, row in rows
    ]
    key = "probabilities" if classes else "prediction"
    dicts = [{**head, key: dict(zip(names, values, strict=True))} for head, values in said]
    if out.suffix == ".csv":
        text = format_csv([[*(said[0][0] if said else []), *names], *([*head.values(), *row] for head, row in said)])
    elif out.suffix == ".json":
        text = json.dumps(dicts, indent=1)
    else:
        text = "".join(json.dumps(row) + "\n" for row in dicts)
    try:
        write_atomically(out, text)
    except OSError as error:
        raise RequestError(f"--out {out}: cannot write there ({error.strerror})") from error
