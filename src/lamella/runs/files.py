"""The files of a run directory that others have to know of."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

from lamella.errors import RequestError

METRICS = "metrics.jsonl"
RUN_FILES = ("run.json", "config.yaml", METRICS, "log.txt", "git.patch")
EVENTS = "events.out.tfevents.*"


def sync_growing_files(path: Path) -> dict[str, int]:
    """Bring the files of a run that grow while it trains to the disk; returns their sizes in bytes."""
    sizes = {}
    for file in (path / METRICS, *path.glob(EVENTS)):
        if file.exists():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
                sizes[file.name] = os.fstat(opened.fileno()).st_size
    return sizes


def truncate_growing_files(path: Path, kept: Mapping[str, int]) -> None:
    """Take what came later from the files of a run that grow: what is not in `kept`, and what is beyond its size."""
    for name, size in sync_growing_files(path).items():
        if name not in kept:
            (path / name).unlink()
        elif size > kept[name]:
            os.truncate(path / name, kept[name])
    # TensorBoard reads its files in the order of their names, which begin with the second in which each was opened.
    while any(name.startswith(EVENTS.replace("*", str(int(time.time())))) for name in kept):
        time.sleep(0.01)


def check_output_path(path: Path) -> None:
    """Raise RequestError where a result would take the place of what is no file, or of a file that a run lives by."""
    if path.exists() and not path.is_file():
        raise RequestError(f"--out {path}: this is no file")
    if path.name in RUN_FILES and (path.parent / "run.json").exists():
        raise RequestError(f"--out {path}: the run lives by this file; choose another name")
