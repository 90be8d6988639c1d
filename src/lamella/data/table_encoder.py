"""The encoder of tables: numbers are standardised, texts become one-hot, and both are learned from the training."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from lamella.data.samples import NamedInputs, Samples
from lamella.data.table_columns import number_column, text_code, text_column
from lamella.errors import RequestError, nearest
from lamella.tables import Table, read_csv

Scale = Mapping[str, float]  # of a column of numbers: its mean and its sd


class TableEncoder:
    """Turns the columns of rows, or of windows of consecutive rows, into floats.

    Raw inputs are named: for each column numbers, float64 (N,) or for windows (N, window), NaN where one is missing; or
    codes of texts, int64 of the same shape. Encoded inputs are float32 (N, features) or (N, window, features): for a
    column of numbers (number - mean) / sd, where a missing one is 0, and for a column of texts one number for each
    category, 1 for that of the cell; a text that is no category is all zeros.

    columns: in the order of the features, the mean and the sd of each column of numbers, and the categories of each
    column of texts. targets: the mean and the sd of each column of the target, where it is numbers. ignored: columns of
    the file that are no inputs. standardize_target: train on (target - mean) / sd. window, horizon: the rows of a
    window, and those that it predicts; 0 for single rows.
    """

    def __init__(
        self,
        columns: Mapping[str, Scale | Sequence[str]],
        targets: Mapping[str, Scale] | None = None,
        ignored: Sequence[str] = (),
        standardize_target: bool = False,
        window: int = 0,
        horizon: int = 0,
    ) -> None:
        self.columns = {name: _plain(column) for name, column in columns.items()}
        self.targets = {name: _plain_scale(scale) for name, scale in (targets or {}).items()}
        self.ignored = list(ignored)
        self.standardize_target, self.window, self.horizon = standardize_target, window, horizon

    def fit(self, samples: Samples) -> None:
        """Learn means, standard deviations (of the population) and categories from the raw training samples.

        Raises RequestError for a column of numbers that are all missing.
        """
        for name, values in self._raw(samples.inputs).items():
            values = _each_row_once(values)
            if values.dtype == torch.int64:
                codes = set(values.tolist())
                texts = cast(Sequence[str], self.columns[name])
                self.columns[name] = [text for text in texts if text_code(text) in codes]
            elif values.isnan().all():
                raise RequestError(
                    f"data: no training sample has a number in the column {name}; data.drop=[{name}] leaves it out",
                    "data.drop",
                )
            else:
                self.columns[name] = _scale(values[~values.isnan()])
        if self.standardize_target:
            targets = _each_row_once(samples.targets) if self.window else samples.targets
            columns = targets.reshape(-1, len(self.targets)).unbind(1)
            self.targets = dict(zip(self.targets, map(_scale, columns), strict=True))

    def encode(self, samples: Samples) -> Samples:
        """Return the samples with encoded inputs, and with standardised targets where that is asked for."""
        targets = samples.targets
        if self.targets:
            if self.standardize_target:
                targets = (targets - self._targets("mean")) / self._targets("sd")
            targets = targets.float()
        return Samples(self._features(samples.inputs), targets)

    def state(self) -> dict[str, object]:
        """Return the `_target_` and the arguments of an equal encoder."""
        return {
            "_target_": "lamella.data.TableEncoder",
            "columns": self.columns,
            "targets": self.targets,
            "ignored": self.ignored,
            "standardize_target": self.standardize_target,
            "window": self.window,
            "horizon": self.horizon,
        }

    def read(self, path: str) -> tuple[list[str], Tensor]:
        """Return the rows of a CSV file with their names, "new.csv:2"; of windows, the last one with the file's name.

        Columns that the training did not read, the target among them, are passed over. Raises RequestError where a
        column is missing or unknown, a cell is no number, or the file is shorter than a window.
        """
        table = read_csv(path)
        for name in table.columns:
            if name not in self.columns and name not in self.ignored:
                raise RequestError(
                    f"{path}: the column {name} was not there in training; {nearest(name, self.columns)}"
                )
        features = self._features(
            NamedInputs({name: self._column(table, name) for name in self.columns if name in table.columns}), path
        )
        if not self.window:
            return [f"{path}:{row}" for row in table.rows], features
        if len(features) < self.window:
            raise RequestError(f"{path}: it has {len(features)} rows, but a prediction takes {self.window}")
        return [path], features[None, -self.window :]

    def noun(self) -> str:
        """Return what is predicted for: each row of a file, or the file."""
        return "file" if self.window else "row"

    def decode(self, outputs: Tensor) -> Tensor:
        """Return outputs (N, …, targets) or, for one target, (N, …), in the unit of the file."""
        if not self.standardize_target:
            return outputs
        return outputs * self._targets("sd").to(outputs) + self._targets("mean").to(outputs)

    def output_names(self) -> list[str]:
        """Return the target's columns; for windows each with the number of the row that is predicted, as "load +1"."""
        if not self.horizon:
            return list(self.targets)
        return [f"{name} +{step}" for step in range(1, self.horizon + 1) for name in self.targets]

    def _targets(self, name: str) -> Tensor:
        return torch.tensor([scale[name] for scale in self.targets.values()], dtype=torch.float64)

    def _column(self, table: Table, name: str) -> Tensor:
        if isinstance(self.columns[name], Mapping):
            return number_column(table, name)
        return text_column(table.columns[name])

    def _raw(self, inputs: object, path: str = "data.path") -> dict[str, Tensor]:
        """Return the raw columns in the order of the training. Raises RequestError if they are not those of it."""
        assert isinstance(inputs, NamedInputs)
        missing = [name for name in self.columns if name not in inputs.tensors]
        if missing:
            raise RequestError(
                f"{path}: the column {missing[0]} of the training is missing; {nearest(missing[0], inputs.tensors)}",
                "data.path",
            )
        for name, column in self.columns.items():
            if isinstance(column, Mapping) != inputs.tensors[name].is_floating_point():
                kinds = ("numbers", "texts") if isinstance(column, Mapping) else ("texts", "numbers")
                raise RequestError(
                    f"{path}: the column {name} held {kinds[0]} in training, and now holds {kinds[1]}", "data.path"
                )
        return {name: inputs.tensors[name] for name in self.columns}

    def _features(self, inputs: object, path: str = "data.path") -> Tensor:
        """Return the features of raw inputs, float32 (…, features). Raises RequestError as `_raw` does."""
        return torch.cat([self._encoded(name, values) for name, values in self._raw(inputs, path).items()], -1).float()

    def _encoded(self, name: str, values: Tensor) -> Tensor:
        """Return the features of a column, float64 (…, features). values: raw (…)."""
        column = self.columns[name]
        if isinstance(column, Mapping):
            return ((values - column["mean"]) / column["sd"]).nan_to_num(0.0).unsqueeze(-1)
        codes = torch.tensor([text_code(text) for text in column], dtype=torch.int64)
        return (values.unsqueeze(-1) == codes).double()


def _plain(column: Scale | Sequence[str]) -> Scale | Sequence[str]:
    return _plain_scale(column) if isinstance(column, Mapping) else list(map(str, column))


def _plain_scale(scale: Scale) -> Scale:
    return {"mean": float(scale["mean"]), "sd": float(scale["sd"])}


def _each_row_once(values: Tensor) -> Tensor:
    """Return the rows (N, …) from which windows of consecutive rows (windows, window, …) were taken."""
    return values if values.dim() == 1 else torch.cat([values[:, 0], values[-1, 1:]])


def _scale(values: Tensor) -> dict[str, float]:
    """Return the mean and the standard deviation of numbers, which is 1 where all are equal but for rounding."""
    mean, sd = float(values.mean()), float(values.std(correction=0))
    return {"mean": mean, "sd": sd if sd > 1e-12 * abs(mean) else 1.0}
