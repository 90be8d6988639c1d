"""The names of the files in a run directory, and the care for those that grow while a run trains."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

from lamella.errors import RequestError

METRICS = "metrics.jsonl"
PREPROCESSING = "preprocessing.json"  # what an encoder has learned from the training samples
FOLDS = "folds.csv"  # the fold of each training sample of the source, in cross-validation
SAMPLES = "samples.npz"  # the metrics of each validation and test sample
LEDGER, TABLE = "tracking.json", "metrics.csv"  # what trackers have got, and what tracking=csv writes
PROFILE, TRACE = "profile.txt", "profile.json"  # where the time of a step goes, and a trace for chrome://tracing
NOTES = "notes.jsonl"  # the notes and tags of a run or of a sweep
# The same for TensorBoard. It does not go back to a file whose name comes before that of the file it reads, so that
# this name comes before those of EVENTS.
NOTES_EVENTS = "annotations.tfevents"
RUN_FILES = (
    "run.json",
    "config.yaml",
    METRICS,
    PREPROCESSING,
    FOLDS,
    SAMPLES,
    PROFILE,
    TRACE,
    NOTES,
    NOTES_EVENTS,
    LEDGER,
    TABLE,
    "log.txt",
    "git.patch",
)
SWEEP_FILES = ("sweep.json", "plan.jsonl", "study.db", ".lock", NOTES, LEDGER, "git.patch")
EVENTS = "events.out.tfevents.*"
LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"  # in the folder checkpoints
EPOCHS = "epoch-[0-9]*.ckpt"  # the checkpoints of the best epochs, where more than one of them is kept
NEW = "new.ckpt"  # the name of the last checkpoint while it is being written


def epoch_checkpoint(epoch: int) -> str:
    """Return the name of the checkpoint after an epoch, which matches EPOCHS."""
    return f"epoch-{epoch:03}.ckpt"


def sync_growing_files(path: Path) -> dict[str, int]:
    """Write the files of a run that grow while it trains to the disk, and return their sizes in bytes by name."""
    sizes = {}
    for file in (path / METRICS, *path.glob(EVENTS)):
        if file.exists():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
                sizes[file.name] = os.fstat(opened.fileno()).st_size
    return sizes


def truncate_growing_files(path: Path, sizes: Mapping[str, int]) -> None:
    """Bring the growing files of a run back to `sizes`: cut what is beyond a size, delete files that have no size."""
    for name, size in sync_growing_files(path).items():
        if name not in sizes:
            (path / name).unlink()
        elif size > sizes[name]:
            os.truncate(path / name, sizes[name])
    # TensorBoard reads event files in the order of their names, which begin with the second in which each was opened.
    # The next file must therefore be opened in a later second.
    while any(name.startswith(EVENTS.replace("*", str(int(time.time())))) for name in sizes):
        time.sleep(0.01)


def unrecorded_seconds(path: Path) -> float:
    """Return how long a process that was killed has trained after it last wrote `run.json`, as far as files tell."""
    files = [path / name for name in ("log.txt", METRICS)] + [*path.glob(EVENTS), *path.glob("checkpoints/*")]
    last = max((file.stat().st_mtime for file in files if file.is_file()), default=0.0)
    return max(0.0, last - (path / "run.json").stat().st_mtime)


def check_output_path(path: Path, option: str = "--out") -> None:
    """Raise RequestError where an option names something that is not a file, or a file of a run or of a sweep."""
    if os.path.lexists(path) and not path.is_file():
        raise RequestError(f"{option} {path}: this is not a file")
    # A link may have another name than the file.
    for file in {path, Path(os.path.realpath(path))}:
        in_run = file.name in RUN_FILES and (file.parent / "run.json").exists()
        in_sweep = file.name in SWEEP_FILES and (file.parent / "sweep.json").exists()
        if in_run or in_sweep or file.suffix == ".ckpt" or file.match(EVENTS):
            raise RequestError(f"{option} {path}: this file is a part of a run; choose another name")
