"""The trash of an outputs directory: what `lamella clean` has moved, each time into a directory of its own.

Everything is renamed and never copied, so that a process that is killed leaves each run and each file whole: in its
place or in the trash. What a directory of the trash is to hold stands in its manifest before anything is moved.
"""

import fcntl
import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote

from lamella.atomic_files import open_to_append, sync, write_atomically
from lamella.errors import RequestError, first_line
from lamella.runs.names import CACHE, OUTPUTS, claim_directory
from lamella.runs.reader import is_being_written, parse_json
from lamella.runs.sweep_directory import is_sweep

TRASH, MANIFEST, LOCK = ".trash", "manifest.json", ".lock"  # the names begin with a dot, so that no list shows them
# TensorBoard reads files with the first of these in their names, also in the trash.
SHOWN, HIDDEN = "tfevents", "tf~events"


@dataclass(frozen=True)
class Batch:
    """What one `lamella clean` has moved. The item `paths[n]` lies in `directory` as a file or a directory `n`.

    root: the outputs directory. paths: where the items were, relative to `root`.
    """

    root: Path
    directory: Path
    paths: Sequence[str]

    @classmethod
    def read(cls, root: Path, directory: Path) -> "Batch":
        """Return the batch in `directory`. Raises RequestError where its manifest is damaged."""
        file = directory / MANIFEST
        try:
            paths = parse_json(file.read_text("utf-8"))["paths"]
            if not all(
                Path(path).parts and not Path(path).is_absolute() and ".." not in Path(path).parts for path in paths
            ):
                raise ValueError("a path leads out of the outputs")
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise RequestError(f"{file} is damaged ({first_line(error)})") from error
        return cls(root, directory, paths)

    def items(self) -> Iterator[tuple[Path, Path]]:
        """Yield where each item lies in the trash and where it was, without the items that have not been moved."""
        for number, path in enumerate(self.paths):
            item = self.directory / str(number)
            if os.path.lexists(item):
                yield item, self.root / path

    def take(self, number: int) -> None:
        """Move the item `paths[number]`, a run, a sweep or a file, into the batch."""
        path = self.root / self.paths[number]
        path.rename(self.directory / str(number))
        sync(self.directory)
        sync(path.parent)

    def hide_events(self) -> None:
        """Rename the events files in the batch, so that TensorBoard does not show them."""
        _rename_events(self.directory, SHOWN, HIDDEN)

    def bring_back(self) -> list[Path]:
        """Move everything back to its place, and return the places.

        Raises RequestError, before anything is moved, where something lies there by now, or a run is in training.
        """
        items = list(self.items())
        for _, path in items:
            if not path.parent.resolve().is_relative_to(self.root.resolve()):
                raise RequestError(f"{path.parent} is a link that leads out of {self.root}; remove it")
            if os.path.lexists(path):
                if path.parent.name == CACHE:
                    raise RequestError(
                        f"{path}: a run has decoded these images again; `rm -r {quote(str(self.directory))}` deletes "
                        "the earlier ones, and\n  the next `lamella clean --restore` brings back what was moved before "
                        "them"
                    )
                raise RequestError(
                    f"{path}: something new lies there; move it away, and nothing is brought back before"
                )
            if path.parent.name == "checkpoints" and is_being_written(path.parent.parent):
                raise RequestError(f"{path.parent.parent}: a process trains this run; wait for its end")
        for item, path in items:
            _rename_events(item, HIDDEN, SHOWN)  # before the rename, after which the run is to be whole
            path.parent.mkdir(parents=True, exist_ok=True)
            item.rename(path)
            sync(path.parent)
        self.delete()
        return [path for _, path in items]

    def delete(self) -> None:
        """Delete the batch with all that is in it."""
        # The manifest goes first: what is deleted in part cannot be brought back.
        (self.directory / MANIFEST).unlink(missing_ok=True)
        sync(self.directory)
        shutil.rmtree(self.directory)


class Trash:
    """The trash of an outputs directory. path: of the trash, which need not exist."""

    def __init__(self, root: Path) -> None:
        self.root, self.path = root, root / TRASH

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from changing the trash. Raises RequestError where one is at work on it."""
        if self.path.is_symlink():
            raise RequestError(f"{self.path} is a link; remove it, as the trash has to be a directory of the outputs")
        try:
            self.path.mkdir(exist_ok=True)
            lock = open_to_append(self.path / LOCK)
        except OSError as error:
            raise RequestError(f"{self.path}: cannot write there ({error.strerror})") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RequestError(f"{self.path}: another `lamella clean` is at work ({error.strerror})") from error
            yield

    def new_batch(self, paths: Sequence[Path]) -> Batch:
        """Return a batch for these paths, none of which is moved yet."""
        directory = claim_directory(self.path, f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%S.%f}")
        batch = Batch(self.root, directory, [os.path.relpath(path, self.root) for path in paths])
        write_atomically(directory / MANIFEST, json.dumps({"format": 1, "paths": batch.paths}, indent=1) + "\n")
        sync(directory)
        sync(self.path)
        return batch

    def batches(self) -> list[Batch]:
        """Return the batches that hold something, the oldest first. Raises RequestError where one is damaged."""
        found = [
            Batch.read(self.root, directory) for directory in self._directories() if (directory / MANIFEST).exists()
        ]
        return [batch for batch in found if any(batch.items())]

    def delete_all(self) -> None:
        """Delete everything that lies in the trash."""
        for directory in self._directories():
            Batch(self.root, directory, []).delete()

    def holds(self, path: Path) -> bool:
        """Return whether something that was in the directory `path` lies in the trash, or all of it if it is gone."""
        place, gone = Path(os.path.abspath(path)), not os.path.lexists(path)
        with suppress(RequestError):
            items = (Path(os.path.abspath(was)) for batch in self.batches() for _, was in batch.items())
            return any(place in was.parents or (gone and place.is_relative_to(was)) for was in items)
        return False

    def _directories(self) -> list[Path]:
        if not self.path.is_dir() or self.path.is_symlink():
            return []
        return sorted(path for path in self.path.iterdir() if path.is_dir() and not path.is_symlink())


def outputs_around(path: Path) -> Path:
    """Return the directory whose trash takes what lies in `path`: the nearest `outputs`, or else `path` itself.

    A run and a sweep have no trash: it lies in the directory that contains them.
    """
    for absolute in (path, Path(os.path.abspath(path))):
        for directory in (absolute, *absolute.parents):
            if directory.name == OUTPUTS.name:
                return directory
    while is_sweep(absolute) or (absolute / "run.json").exists():
        absolute = absolute.parent
    return absolute


def cleaned_hint(run: Path) -> str:
    """Return how to get back what `lamella clean` has moved from a run, as the end of a sentence, or ""."""
    root = outputs_around(run)
    if not Trash(root).holds(run):
        return ""
    return f"; `lamella clean {root} --restore` brings back what the last `lamella clean` has moved"


def bytes_to_free(paths: Iterable[Path]) -> int:
    """Return how many bytes are free once files and directories are deleted.

    A file of several names, as the last checkpoint is often the best one too, counts where all of its names go.
    """
    return sum(status.st_size for status, names in _files(paths).values() if names == status.st_nlink)


def bytes_in(paths: Iterable[Path]) -> int:
    """Return how many bytes files, and those in directories, take. A file of several names counts once."""
    return sum(status.st_size for status, _ in _files(paths).values())


def _files(paths: Iterable[Path]) -> dict[tuple[int, int], tuple[os.stat_result, int]]:
    """Return the status of each file at or below the paths, and how many names it has there."""
    files = dict[tuple[int, int], tuple[os.stat_result, int]]()
    for path in paths:
        for file in [path, *path.rglob("*")]:
            with suppress(FileNotFoundError):  # a run in training has removed it
                status = file.lstat()
                key = status.st_dev, status.st_ino
                if not stat.S_ISDIR(status.st_mode):
                    files[key] = status, files.get(key, (status, 0))[1] + 1
    return files


def _rename_events(directory: Path, before: str, after: str) -> None:
    for file in list(directory.rglob(f"*{before}*")):
        if file.is_file():
            file.rename(file.with_name(file.name.replace(before, after)))
