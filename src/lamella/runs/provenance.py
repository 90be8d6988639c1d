"""What a run was made with: the versions of the packages, and the commit and the changes of the code."""

import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from lamella.atomic_files import replace_link
from lamella.config.project import inside_run_directory
from lamella.runs.repository import Git, open_repository
from lamella.tables import format_size, printable

PACKAGES = ("lamella", "torch", "torchvision", "pytorch-lightning", "hydra-core")
LARGEST_PATCH = 1_000_000  # bytes; a file that is larger, before or after the change, is left out
MOST_READ = 16 * LARGEST_PATCH  # bytes of changed files that git compares, because a large diff takes many seconds
MOST_NAMED = 20  # files that are left out, by name in the record
# `git apply` can read the patch, and no program of the user's makes a part of it.
DIFF = ("diff-index", "--no-ext-diff", "--no-textconv", "--no-renames", "--ignore-submodules=dirty")


def installed_versions() -> dict[str, object]:
    """Return the versions of Python and of the packages on which a result depends, by name."""
    return {"python": sys.version.split()[0], **{name: version(name) for name in PACKAGES}}


def git_state(patch: Path) -> dict[str, object] | None:
    """Return the commit of the working directory and whether it has changes, and write the changes to `patch`.

    The patch has at most LARGEST_PATCH bytes; "left_out" names the files that it does not contain. Runs of one sweep
    that have the same changes share one file. Return None outside a repository.
    """
    if inside_run_directory():
        return None
    try:
        with open_repository(Path.cwd()) as repository:
            if repository is None:
                return None
            top, git = repository
            commit = git("rev-parse", "HEAD").decode().strip()
            git("update-index", "-q", "--refresh", "--ignore-submodules")  # of files that have only another time
            sizes = dict(_changed_files(top, git))
            changes, left_out = _small_changes(git, sizes)
            untracked = git("ls-files", "--others", "--exclude-standard", "--directory", "--no-empty-directory", "-z")
    except (OSError, subprocess.SubprocessError):
        return None
    if left_out:
        more = [f"and {len(left_out) - MOST_NAMED} more"] if len(left_out) > MOST_NAMED else []
        left_out = [*left_out[:MOST_NAMED], *more]
        limit = format_size(LARGEST_PATCH)
        changes = f"A patch has at most {limit}. Left out: {', '.join(left_out)}\n\n".encode() + changes
    if changes:
        _write_patch(patch, changes)
    state: dict[str, object] = {"commit": commit, "dirty": bool(sizes or untracked)}
    return {**state, "left_out": left_out} if left_out else state


def _changed_files(top: Path, git: Git) -> Iterator[tuple[str, float]]:
    """Yield each file that differs from the last commit, with its size in bytes: the larger one of before and now.

    The size is infinite where a partial clone lacks the file.
    """
    fields = git(*DIFF, "--raw", "--no-abbrev", "-z", "HEAD").split(b"\0")
    entries = list(zip(map(bytes.split, fields[0::2]), map(os.fsdecode, fields[1::2]), strict=False))
    hashes = b"".join(entry[2] + b"\n" for entry, _ in entries)  # of the contents before, zeros for a new file
    lines = git("cat-file", "--batch-check=%(objectsize)", given=hashes).splitlines()
    for (entry, path), line in zip(entries, lines, strict=True):
        size = float(line) if line.isdigit() else 0.0
        if line.endswith(b"missing") and entry[0] not in (b":000000", b":160000"):  # neither new nor a submodule
            size = math.inf
        with suppress(OSError):  # the file was deleted
            size = max(size, os.lstat(top / path).st_size)
        yield path, size


def _small_changes(git: Git, sizes: Mapping[str, float]) -> tuple[bytes, list[str]]:
    """Return the patch of the changed files as far as the limits allow, and the names of the files that it leaves out.

    sizes: of the changed files in bytes, by path.
    """
    read, excluded = 0.0, list[str]()
    for path, size in sorted(sizes.items(), key=lambda item: item[1]):
        read += size
        if size > LARGEST_PATCH or read > MOST_READ:
            excluded.append(path)
    left_out = [_label(path, sizes[path]) for path in excluded]
    if len(excluded) == len(sizes):
        return b"", left_out
    patch = git(
        *DIFF, "--patch", "--binary", "HEAD", "--", ".", *(f":(top,exclude,literal){path}" for path in excluded)
    )
    kept = b""
    # The part of each file begins with such a line, and has no other one.
    for part in re.split(rb"^(?=diff --git )", patch, flags=re.MULTILINE)[1:]:
        if len(kept) + len(part) <= LARGEST_PATCH:
            kept += part
        else:
            both_names = part.partition(b"\n")[0].removeprefix(b"diff --git ")  # a/PATH b/PATH
            left_out.append(_label(os.fsdecode(both_names[: len(both_names) // 2]).removeprefix("a/"), len(part)))
    return kept, left_out


def _label(path: str, size: float) -> str:
    """Return the name and the size of a file that a patch leaves out, in one line."""
    shown = format_size(size) if math.isfinite(size) else "not in this clone"
    return f"{printable(path)} ({shown})".replace("\n", "?")


def _write_patch(patch: Path, changes: bytes) -> None:
    """Write the changes to `patch`, in a sweep as a link to the same changes of another run."""
    patch.write_bytes(changes)
    shared = patch.parents[1] / patch.name
    if not (shared.parent / "sweep.json").is_file():
        return
    with suppress(OSError):  # some file systems have no links
        if not os.path.lexists(shared):
            os.link(patch, shared)
        elif shared.is_file() and not shared.is_symlink() and shared.read_bytes() == changes:
            replace_link(shared, patch)
