"""Choose what `lamella clean` moves to the trash, and what it must leave because somebody needs it."""

import errno
import fcntl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lamella.atomic_files import open_to_append
from lamella.errors import RequestError
from lamella.runs.files import BEST, LAST
from lamella.runs.listing import Record, Runs
from lamella.runs.names import CACHE
from lamella.runs.reader import is_being_written
from lamella.runs.sweep_directory import is_sweep, open_sweep, sweep_is_at_work
from lamella.runs.trash import outputs_around
from lamella.runs.writer import reserved_run

Keep = Literal["best", "last", "none"]  # which checkpoints of a run stay
KEPT = {"best": BEST, "last": LAST, "none": None}
IMAGES = "*.uint8"  # how `lamella.data.cache` names files of decoded images


@dataclass(frozen=True)
class Removal:
    """What goes to the trash together.

    owner: the run, the sweep or the file of images that nobody may use meanwhile. paths: what is moved. runs: those
    that are moved, or that lose checkpoints.
    """

    owner: Path
    paths: list[Path]
    runs: list[Record]

    @contextmanager
    def reserved(self) -> Iterator[None]:
        """Keep other processes from using the owner. Raises RequestError where one does."""
        with ExitStack() as stack:
            if self.owner.is_file():
                for path in self.paths:
                    _lock_images(path, stack)
            elif is_sweep(self.owner):
                stack.enter_context(open_sweep(self.owner))
                for run in self.runs:
                    if is_being_written(run.path):
                        raise RequestError(f"{run.path}: another process is at work on this run")
            else:
                stack.enter_context(reserved_run(self.owner))
            yield


def whole_runs(everything: Runs, selected: Runs) -> tuple[list[Removal], dict[Path, str]]:
    """Return the removals of runs as a whole, and for each selected run that stays the reason.

    The runs of a sweep go together with the directory of their sweep, or stay. everything: all runs of the outputs.
    """
    going, kept = {record.path: record for record in selected}, dict[Path, str]()
    needed = _needed_runs(everything)
    members: dict[Path, list[Path]] = {}
    for record in everything:
        if is_sweep(record.path.parent):
            members.setdefault(record.path.parent, []).append(record.path)

    def keep(path: Path, reason: str) -> None:
        if going.pop(path, None):
            kept[path] = reason

    for path in list(going):
        if reason := _in_use(path):
            keep(path, reason)
    count = -1
    while count != len(kept):  # until no run that stays needs another one
        count = len(kept)
        for source, child in needed:
            if child not in going:
                keep(source, f"{child} has started from it")
        for sweep, paths in members.items():
            if any(path not in going for path in paths):
                for path in paths:
                    keep(path, f"the sweep {sweep} would train it again; select all runs of the sweep, or use --keep")
    removals: dict[Path, Removal] = {}
    for path, record in going.items():
        owner = path.parent if path.parent in members else path
        removals.setdefault(owner, Removal(owner, [owner], [])).runs.append(record)
    return list(removals.values()), kept


def checkpoints(everything: Runs, selected: Runs, keep: Keep) -> tuple[list[Removal], dict[Path, str]]:
    """Return the removals of checkpoints, all but the one to keep, and for each selected run that is left the reason.

    A run without such checkpoints is in neither. everything: all runs of the outputs.
    """
    removals, kept = list[Removal](), dict[Path, str]()
    needed = dict(_needed_runs(everything))
    for record in selected:
        files = sorted((record.path / "checkpoints").glob("[!.]*.ckpt"))
        paths = [file for file in files if file.name != KEPT[keep] and file.is_file()]
        if not paths:
            continue
        if reason := _in_use(record.path):
            kept[record.path] = reason
        elif record.path in needed:
            kept[record.path] = f"{needed[record.path]} has started from it"
        elif is_sweep(record.path.parent) and record.fields["status"] != "finished":
            kept[record.path] = f"the sweep {record.path.parent} goes on from its checkpoints"
        elif keep != "none" and len(paths) == len(files):
            kept[record.path] = f"it has no {KEPT[keep]} to keep"
        else:
            removals.append(Removal(record.path, paths, [record]))
    return removals, kept


def cached_images(root: Path) -> list[Removal]:
    """Return the removals of the files of decoded images, each with the file that holds its checksum."""
    files = sorted((root / CACHE).glob(IMAGES))
    parts = ([file, file.with_suffix(".lock"), file.with_suffix(".crc32")] for file in files)
    return [Removal(paths[0], [path for path in paths if path.exists()], []) for paths in parts]


def _in_use(path: Path) -> str | None:
    """Return why a process needs the run in `path` at the moment, None where none does."""
    if is_being_written(path):
        return "it is in training"
    if is_sweep(path.parent) and sweep_is_at_work(path.parent):
        return f"the sweep {path.parent} is running"
    return None


def _needed_runs(everything: Runs) -> list[tuple[Path, Path]]:
    """Return pairs of runs: one with whose weights another began, or which it repeats, and that other one."""
    places = {record.path.resolve(): record.path for record in everything}
    pairs = []
    for record in everything:
        names = (record.fields.get("weights", {}).get("from"), record.fields.get("reproduces"))
        # A relative path is recorded as it was typed, most often in the directory that contains the outputs.
        bases = (Path(), outputs_around(record.path).parent)
        for source in {(base / Path(name).expanduser()).resolve() for name in names if name for base in bases}:
            found = (places.get(place) for place in (source, *source.parents))
            pairs += [(path, record.path) for path in found if path not in (None, record.path)]
    return pairs


def _lock_images(path: Path, stack: ExitStack) -> None:
    """Lock a file of the image cache until the end of the stack. Raises RequestError where a run uses it."""
    file = stack.enter_context(open_to_append(path))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        in_use = error.errno in (errno.EAGAIN, errno.EACCES)
        raise RequestError(f"{path}: " + ("a run uses these images" if in_use else str(error.strerror))) from error
