"""lamella clean [DIR]: move runs, or some of their checkpoints, to a trash, and bring them back or delete them.

lamella clean
lamella clean outputs/default --older 30d --keep best
lamella clean --filter 'status=failed or tags ~ throwaway'
lamella clean --restore
lamella clean --empty
"""

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from lamella.commands.parser import CommandParser
from lamella.commands.several_runs import intact_runs
from lamella.console import print
from lamella.errors import RequestError
from lamella.runs.cleaning import KEPT, Removal, cached_images, checkpoints, whole_runs
from lamella.runs.files import METRICS
from lamella.runs.listing import Record, Runs
from lamella.runs.names import CACHE, OUTPUTS
from lamella.runs.trash import Trash, bytes_in, bytes_to_free, outputs_around
from lamella.tables import format_size

HOURS = {"h": 1, "d": 24, "w": 168}
MOST_LINES = 20  # of runs that are named one by one
SELECTING = ("filter", "older", "keep")


def main(arguments: list[str]) -> int:
    """Move, bring back or delete what was asked for, and return the exit status."""
    options = _parse(arguments)
    directory: Path = options.directory or OUTPUTS
    if not directory.is_dir():
        raise RequestError(f"{directory} is not a directory; `lamella train` makes outputs/")
    root = outputs_around(directory)
    trash = Trash(root)
    if options.restore:
        return _restore(trash)
    if options.empty:
        return _empty(trash, options.yes)
    if options.cache:
        removals, kept = cached_images(root), dict[Path, str]()
        what = "{files} of decoded images"
    elif not options.directory and not _selecting(options):
        return _show_sizes(trash)
    else:
        everything = intact_runs(root)
        selected = _selected(everything, directory, options)
        if options.keep:
            removals, kept = checkpoints(everything, selected, options.keep)
            what = "the checkpoints of {runs}" + (f", all but {KEPT[options.keep]}" if KEPT[options.keep] else "")
        else:
            removals, kept = whole_runs(everything, selected)
            what = "{runs}, as a whole"
    _print_kept(kept)
    if not removals:
        print(f"there is nothing to move in {directory}")
        return 0
    _announce(removals, what, trash)
    if not _confirmed("move this to the trash?", options.yes):
        print("nothing was moved")
        return 0
    return _move(trash, removals)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument(
        "directory",
        metavar="DIR",
        nargs="?",
        type=Path,
        help="where the runs are; without any argument, show the sizes",
    )
    parser.add_argument("--filter", metavar="CONDITION", help="only the runs that meet it: see `lamella runs --help`")
    parser.add_argument("--older", metavar="AGE", type=_age, help="only the runs that ended before: 30d, 12h or 4w ago")
    parser.add_argument(
        "--keep",
        choices=KEPT,
        help="move checkpoints alone, all but best.ckpt or last.ckpt, or all; by default the whole runs are moved",
    )
    parser.add_argument(
        "--cache", action="store_true", help="move the decoded images of data.cache=memmap, and no runs"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--restore", action="store_true", help="bring back what the last clean has moved")
    parser.add_argument("--empty", action="store_true", help="delete what is in the trash")
    options = parser.parse_args(arguments)
    alone = [name for name in ("cache", "restore", "empty") if getattr(options, name)]
    others = alone[1:] + _selecting(options)
    if alone and others:
        parser.error(f"--{alone[0]} and --{others[0]} do not go together")
    return options


def _selecting(options: argparse.Namespace) -> list[str]:
    """Return the names of the options that were given to select runs. An age of zero and an empty condition count."""
    return [name for name in SELECTING if getattr(options, name) is not None]


def _age(text: str) -> timedelta:
    """Return an age, such as 30d."""
    match = re.fullmatch(r"(\d{1,4}(?:\.\d+)?)([hdw])", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no age; write a number and h, d or w, as 30d")
    return timedelta(hours=float(match[1]) * HOURS[match[2]])


def _selected(everything: Runs, directory: Path, options: argparse.Namespace) -> Runs:
    """Return the runs in a directory that meet the condition and are old enough. Raises RequestError."""
    place, before = Path(os.path.abspath(directory)), datetime.now(UTC) - (options.older or timedelta())
    selected = Runs(record for record in everything if Path(os.path.abspath(record.path)).is_relative_to(place))
    if options.filter is not None:
        selected = selected.where(options.filter)
    return Runs(record for record in selected if options.older is None or _ended(record) < before)


def _ended(record: Record) -> datetime:
    """Return when a run ended, or last wrote a file if it was killed. A run without a valid time is new."""
    try:
        if finished := record.fields.get("finished"):
            return datetime.fromisoformat(finished).astimezone(UTC)
        written = [file.stat().st_mtime for name in ("run.json", METRICS) if (file := record.path / name).exists()]
        return datetime.fromtimestamp(max(written), UTC)
    except (ValueError, OSError):
        return datetime.now(UTC)


def _announce(removals: Sequence[Removal], what: str, trash: Trash) -> None:
    """Print what is to be moved, and how many bytes it would free once it is deleted."""
    paths = [path for removal in removals for path in removal.paths]
    runs = [record for removal in removals for record in removal.runs]
    what = what.format(runs=_counted(runs, "run"), files=_counted(removals, "file"))
    print(f"to {trash.path} would go {what}: {format_size(bytes_to_free(paths))}")
    for removal in removals[:MOST_LINES]:
        names = f"  {', '.join(path.name for path in removal.paths)}" if removal.paths != [removal.owner] else ""
        print(f"  {removal.owner}{names}  {format_size(bytes_to_free(removal.paths))}")
    if len(removals) > MOST_LINES:
        print(f"  … and {len(removals) - MOST_LINES:,} more")
    whole = any(removal.paths == [removal.owner] for removal in removals)
    open_ended = [record for record in runs if record.fields["status"] != "finished"]
    if open_ended and not whole:
        print(
            f"note: {len(open_ended)} of these runs did not finish, such as {open_ended[0].path}; `lamella resume` can "
            "only go on from\n  a checkpoint that stays"
        )


def _counted(items: Sequence[object], noun: str) -> str:
    return f"{len(items):,} {noun}{'s' * (len(items) != 1)}"


def _print_kept(kept: Mapping[Path, str]) -> None:
    """Print which of the selected runs stay, and why."""
    for path, reason in list(kept.items())[:MOST_LINES]:
        print(f"kept: {path}: {reason}")
    if len(kept) > MOST_LINES:
        print(f"kept: {len(kept) - MOST_LINES:,} more runs, for such reasons")


def _confirmed(question: str, yes: bool) -> bool:
    """Return whether the user agrees. Raises RequestError where nobody can be asked."""
    if yes:
        return True
    if not sys.stdin.isatty():
        raise RequestError("there is no terminal on which to ask; --yes does it without a question")
    print(f"{question} [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _move(trash: Trash, removals: Sequence[Removal]) -> int:
    """Move the removals to the trash, except for what a process has begun to use meanwhile. Return the exit status."""
    number, failed = 0, False
    with trash.locked():
        batch = trash.new_batch([path for removal in removals for path in removal.paths])
        try:
            for removal in removals:
                try:
                    with removal.reserved():
                        for offset in range(len(removal.paths)):
                            batch.take(number + offset)
                except RequestError as error:
                    print(f"kept: {error}")
                except OSError as error:  # such as a run that is the root of a file system
                    print(f"kept: {error.filename or removal.owner}: it cannot be moved ({error.strerror})")
                    failed = True
                number += len(removal.paths)
        finally:
            batch.hide_events()
        moved = sum(1 for _ in batch.items())
    if not moved:
        print("nothing was moved")
        return int(failed)
    root = f" {trash.root}" if trash.root != OUTPUTS else ""
    part = "" if moved == number else f" {moved:,} of {_counted(batch.paths, 'item')}"
    print(f"moved{part}; `lamella clean{root} --restore` brings it back, and `lamella clean{root} --empty` deletes it")
    return int(failed)


def _restore(trash: Trash) -> int:
    """Bring back what the last clean has moved, and return the exit status."""
    with trash.locked():
        batches = trash.batches()
        if not batches:
            print(f"there is nothing to bring back in {trash.path}")
            return 0
        paths = batches[-1].bring_back()
    for path in paths[:MOST_LINES]:
        print(f"brought back: {path}")
    if len(paths) > MOST_LINES:
        print(f"brought back: {len(paths) - MOST_LINES:,} more")
    return 0


def _empty(trash: Trash, yes: bool) -> int:
    """Delete what is in the trash, and return the exit status."""
    with trash.locked():
        if not (size := bytes_to_free([trash.path])):
            print(f"there is nothing in {trash.path}")
        elif _confirmed(f"delete {format_size(size)} in {trash.path} for ever?", yes):
            trash.delete_all()
            print(f"deleted {format_size(size)}")
        else:
            print("nothing was deleted")
    return 0


def _show_sizes(trash: Trash) -> int:
    """Print what takes how much room, and how to free it, and return the exit status."""
    everything = intact_runs(trash.root)
    files = [file for record in everything for file in (record.path / "checkpoints").glob("*.ckpt")]
    images = [path for removal in cached_images(trash.root) for path in removal.paths]
    for text, paths, command in (
        (_counted(everything, "run"), [record.path for record in everything], f"lamella clean {trash.root}"),
        ("  their checkpoints", files, f"lamella clean {trash.root} --keep none, best or last"),
        (f"decoded images in {trash.root / CACHE}", images, "lamella clean --cache"),
        (f"trash in {trash.path}", [trash.path], "lamella clean --empty"),
    ):
        print(f"{text:<40}  {format_size(bytes_in(paths)):>10}  {command}")
    return 0
