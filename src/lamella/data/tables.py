"""Sources that read tables: a CSV file, and the tables that scikit-learn contains."""

import gzip
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lamella.data.samples import NamedInputs, Samples, Splits
from lamella.data.table_columns import group_column, is_missing, is_text, number_column, text_column
from lamella.data.table_encoder import TableEncoder
from lamella.errors import RequestError, nearest
from lamella.tables import Table, read_csv

KINDS = ("classes", "labels", "numbers")
UNFITTED = {"mean": 0.0, "sd": 1.0}
CELLS = (
    "radius",
    "texture",
    "perimeter",
    "area",
    "smoothness",
    "compactness",
    "concavity",
    "concave points",
    "symmetry",
)
# The files of the tables in the folder of scikit-learn, and their columns.
BUNDLED = {
    "breast_cancer": (
        "breast_cancer.csv",
        [f"{how} {name}" for how in ("mean", "error of", "worst") for name in (*CELLS, "fractal dimension")],
    ),
    "wine": (
        "wine_data.csv",
        [
            "alcohol",
            "malic acid",
            "ash",
            "alcalinity of ash",
            "magnesium",
            "phenols",
            "flavanoids",
            "other phenols",
            "proanthocyanins",
            "colour",
            "hue",
            "OD280/OD315",
            "proline",
        ],
    ),
    "diabetes": ("diabetes_data_raw.csv.gz", ["age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"]),
}


def csv(
    path: str,
    target: str | Sequence[str],
    kind: str = "classes",
    classes: Sequence[str] = (),
    columns: Sequence[str] | None = None,
    drop: Sequence[str] = (),
    text: Sequence[str] = (),
    standardize_target: bool = False,
    groups: str | None = None,
) -> Splits:
    """Return the rows of a CSV file as samples.

    target: the column that is predicted, or several. kind: "classes" for one column of classes, "labels" for columns of
    0 and 1, or "numbers". classes: the names of the classes, in the order of the class indices. columns: the columns
    that are read, None for all but the target. drop: columns that are not read. text: columns of texts that look like
    numbers. standardize_target: train on numbers of mean 0 and standard deviation 1. groups: the column that names the
    group of each row, which is no input. Raises RequestError.
    """
    table = read_csv(path, "data.path")
    targets = list(map(str, [target] if isinstance(target, str | int) else target))
    check_columns(table, target=targets, columns=columns, drop=drop, text=text)
    group = group_column(table, groups)
    used = input_columns(table, columns, [*targets, *drop, *([] if groups is None else [groups])])
    return _splits(table, targets, kind, classes, used, text, standardize_target, group)


def bundled_table(
    name: str,
    classes: Sequence[str] = (),
    keep: Mapping[str, float] | None = None,
    standardize_target: bool = False,
) -> Splits:
    """Return the rows of a table that scikit-learn contains.

    name: breast_cancer or wine, whose target is classes, or diabetes, whose target is a number. classes: the names of
    the classes, in the order in which scikit-learn numbers them. keep: the fraction of a class whose first rows are
    kept, which makes classes rare. standardize_target: as for `csv`. Raises RequestError.
    """
    if name not in BUNDLED:
        raise RequestError(f"data.source.name is {name!r}; {nearest(name, BUNDLED)}", "data.source.name")
    file, names = BUNDLED[name]
    if name == "diabetes":
        values = np.column_stack([_numbers(file, None), _numbers("diabetes_target.csv.gz", None)])
        table = Table(name, _columns(values, [*names, "progression"]), list(range(2, len(values) + 2)))
        return _splits(table, ["progression"], "numbers", (), names, (), standardize_target)
    values = _numbers(file, ",", 1)
    kept = np.ones(len(values), bool)
    for label, fraction in (keep or {}).items():
        if label not in classes or not 0 < fraction <= 1:
            known = "it takes fractions up to 1" if label in classes else nearest(label, classes)
            raise RequestError(f"data.keep is {{{label}: {fraction}}}; {known}", "data.keep")
        rows = np.flatnonzero(values[:, -1] == list(classes).index(label))
        kept[rows[round(fraction * len(rows)) :]] = False
    columns = _columns(values[kept, :-1], names)
    columns["class"] = [list(classes)[int(number)] for number in values[kept, -1]]
    return _splits(Table(name, columns, list(range(2, kept.sum() + 2))), ["class"], "classes", classes, names)


def _numbers(file: str, delimiter: str | None, header: int = 0) -> np.ndarray:
    """Return the numbers in a file of scikit-learn, whose import would take longer than the training."""
    spec = find_spec("sklearn")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "datasets/data" / file
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as opened:
        return np.loadtxt(opened, delimiter=delimiter, skiprows=header, dtype=np.float64)


def _columns(values: np.ndarray, names: Sequence[str]) -> dict[str, list[str]]:
    """Return numbers (rows, columns) as the cells of a table."""
    return {name: list(map(str, column.tolist())) for name, column in zip(names, values.T, strict=True)}


def check_columns(table: Table, **names: Sequence[object] | None) -> None:
    """Raise RequestError for a name that the table does not have. names: lists of columns by the key below `data`."""
    for key, given in names.items():
        if unknown := [str(name) for name in given or () if str(name) not in table.columns]:
            single = len(table.columns) == 1
            hint = f"it has one column, {next(iter(table.columns))!r}" if single else nearest(unknown[0], table.columns)
            raise RequestError(
                f"data.{key} names {unknown[0]!r}; {table.path} has no such column; {hint}", f"data.{key}"
            )


def input_columns(table: Table, columns: Sequence[str] | None, left_out: Sequence[str]) -> list[str]:
    """Return the columns that become inputs: `columns` or all, without those left out. Raises RequestError."""
    others = set(map(str, left_out))
    used = [name for name in map(str, columns or table.columns) if name not in others]
    if not used:
        raise RequestError(f"data.columns: no column of {table.path} is left to be read", "data.columns")
    return used


def _splits(
    table: Table,
    targets: Sequence[str],
    kind: str,
    classes: Sequence[str],
    used: Sequence[str],
    text: Sequence[str] = (),
    standardize_target: bool = False,
    group: Tensor | None = None,
) -> Splits:
    """Return the samples of a table, with an encoder that has to be fitted.

    used: the columns that become inputs. group: of each row (N,).
    """
    if kind not in KINDS:
        raise RequestError(f"data.kind is {kind!r}; {nearest(kind, KINDS)}", "data.kind")
    if standardize_target and kind != "numbers":
        raise RequestError(
            f"data.standardize_target is for numbers, and data.kind is {kind}; leave it false",
            "data.standardize_target",
        )
    inputs, shapes, notes = read_columns(table, used, text)
    scales = dict.fromkeys(targets, UNFITTED) if kind == "numbers" else {}
    ignored = [name for name in table.columns if name not in used]
    encoder = TableEncoder(shapes, scales, ignored, standardize_target)
    samples = Samples(inputs, _target_values(table, targets, kind, list(map(str, classes))), group)
    return Splits(samples, notes=notes, encoder=encoder)


def read_columns(
    table: Table, used: Sequence[str], text: Sequence[str] = ()
) -> tuple[NamedInputs, dict[str, Mapping[str, float] | list[str]], list[str]]:
    """Return the raw inputs of a table, the columns of an encoder that has to be fitted, and notes.

    used: the columns that become inputs. text: those that hold texts, although they look like numbers. Raises
    RequestError for a cell that is no number in a column of numbers, and for a column without a value.
    """
    tensors: dict[str, Tensor] = {}
    columns: dict[str, Mapping[str, float] | list[str]] = {}
    notes = ["columns without a name are left out"] * bool(table.unnamed)
    for name in used:
        cells = table.columns[name]
        missing = sum(map(is_missing, cells))
        if missing == len(cells):
            raise RequestError(
                f"{table.path}: the column {name} has no value; data.drop=[{name}] leaves it out", "data.drop"
            )
        if name in map(str, text) or is_text(cells):
            texts = sorted({cell for cell in cells if not is_missing(cell)})
            tensors[name], columns[name], filled = text_column(cells), texts, "count as no category"
            if len(texts) > max(20, len(cells) / 2):
                notes.append(
                    f"the column {name} has {len(texts):,} different texts in {len(cells):,} rows, each of them an "
                    f"input; data.drop=[{name}] leaves it out"
                )
        else:
            tensors[name], columns[name] = number_column(table, name, "data.path"), UNFITTED
            filled = "get the mean of the training samples"
        notes += [f"the column {name}: {missing:,} of {len(cells):,} cells are empty, and {filled}"] * bool(missing)
    return NamedInputs(tensors), columns, notes


def _target_values(table: Table, targets: Sequence[str], kind: str, classes: Sequence[str]) -> Tensor:
    """Return the targets: classes, int64 (N,), or labels or numbers, float64 (N, targets). Raises RequestError."""
    if kind != "classes":
        values = torch.stack([number_column(table, name, "data.kind", missing=False) for name in targets], 1)
        if kind == "labels" and len(wrong := ((values != 0) & (values != 1)).nonzero()):
            row, column = wrong[0].tolist()
            raise RequestError(
                f"data.kind is labels, but row {table.rows[row]} of {table.path} has "
                f"{table.columns[targets[column]][row]} in the column {targets[column]}; labels are 0 or 1",
                "data.kind",
            )
        return values
    if len(targets) != 1:
        raise RequestError("data.target is a list; classes take one column, and labels several", "data.target")
    numbers = {name: number for number, name in enumerate(classes)}
    for cell, row in zip(table.columns[targets[0]], table.rows, strict=True):
        if cell not in numbers:
            what = f"{cell!r} is none of data.classes; {nearest(cell, classes)}" if cell else "the cell is empty"
            raise RequestError(f"{table.path}: row {row}, column {targets[0]}: {what}", "data.target")
    return torch.tensor([numbers[cell] for cell in table.columns[targets[0]]])
