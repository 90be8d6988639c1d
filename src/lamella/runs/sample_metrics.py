"""The metrics of each validation and test sample of a run, by which runs are compared sample by sample."""

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lamella.atomic_files import replacing
from lamella.errors import RequestError
from lamella.runs.files import SAMPLES
from lamella.runs.reader import check_entry

Array = np.ndarray[Any, Any]
TARGETS = "targets"  # the name of the checksum among the metrics of a stage
# What reading a damaged file may raise.
DAMAGE_ERRORS = (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class SampleMetric:
    """A metric of each sample of a split, in the order of the data.

    values: (N,), bool where a sample has a single answer, which is right or wrong, otherwise float32; their mean is the
    metric. targets: a checksum of the targets, which two runs share that were judged by the same samples.
    """

    values: Array
    targets: int


def write_sample_metrics(run: Path, stages: Mapping[str, Mapping[str, Array]]) -> None:
    """Write `samples.npz` into a run directory.

    stages: for "val" and "test" the values of each metric by its name, and under TARGETS the checksum of the targets.
    """
    arrays = {f"{stage}/{name}": values for stage, metrics in stages.items() for name, values in metrics.items()}
    with replacing(run / SAMPLES) as temporary, temporary.open("xb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def read_sample_metric(run: Path, name: str) -> SampleMetric | None:
    """Return a metric, such as val/accuracy, of each sample, None where the run has not kept it or it is damaged."""
    file = run / SAMPLES
    try:
        check_entry(run, file)
        if not file.is_file():
            return None
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            values = arrays[name]
            targets = int(arrays[f"{name.partition('/')[0]}/{TARGETS}"])
    except (RequestError, TypeError, *DAMAGE_ERRORS):
        return None
    return SampleMetric(values, targets) if values.ndim == 1 and values.dtype.kind in "bf" else None
