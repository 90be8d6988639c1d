"""Find files in folders, and count what is left out."""

import glob
import os
import stat
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
# The kinds of files that are left out; other kinds are the endings of their names.
HIDDEN, SPECIAL, BARE, OUTSIDE = "hidden", "special", "without an ending", "outside of the class folders"


def find_images(folder: Path) -> tuple[list[str], Counter[str]]:
    """Return the sorted paths of the images below a folder, and how many files are left out, as `files_below` does."""
    return files_below(folder, IMAGE_SUFFIXES)


def files_below(folder: Path, suffixes: Collection[str] | None) -> tuple[list[str], Counter[str]]:
    """Return the sorted paths of files below a folder, and how many files are left out, by their kind.

    suffixes: the endings of the files, None for any. Left out are files that are hidden, because their name or that of
    a folder above begins with a dot; files with other endings; and special files, which are pipes and devices. Links
    are followed, but not to a folder above, and a folder that is reached twice is read once.
    Raises OSError for a folder that cannot be read.
    """
    found, left_out = [], Counter[str]()
    for place, names in _walk(folder):
        hidden = any(part.startswith(".") for part in place.relative_to(folder).parts)
        for name in names:
            suffix = os.path.splitext(name)[1].lower()
            if hidden or name.startswith("."):
                left_out[HIDDEN] += 1
            elif suffixes is not None and suffix not in suffixes:
                left_out[suffix or BARE] += 1
            elif not _is_regular(path := os.path.join(place, name)):
                left_out[SPECIAL] += 1
            else:
                found.append(path)
    return sorted(found), left_out


def files_outside(folder: Path, suffixes: Collection[str]) -> Counter[str]:
    """Return how many files in a folder with a folder for each class belong to no class, by their kind.

    suffixes: the endings of the files that are read.
    """
    counts = Counter[str]()
    for child in folder.iterdir():
        if child.name.startswith("."):
            counts[HIDDEN] += sum(len(names) for _, names in _walk(child)) if child.is_dir() else 1
        elif not child.is_dir():
            suffix = child.suffix.lower()
            counts[OUTSIDE if suffix in suffixes else suffix or BARE] += 1
    return counts


def find_matches(pattern: str) -> list[str]:
    """Return the sorted paths of the files that a pattern with *, ?, [ ] and ** matches.

    As in a shell, hidden files are matched only by a pattern with their dot. Unlike in a shell, ** reads a folder once,
    also if a link leads to a folder above it.
    """
    parts = pattern.split("/")
    if "**" not in parts:
        return sorted(filter(os.path.isfile, glob.glob(pattern)))
    first = parts.index("**")
    base = "/".join(parts[:first]) or ("/" if first else ".")
    return sorted(
        str(place / name)
        for start in map(Path, glob.glob(base))
        for place, names in _walk(start)
        for name in names
        if _fits((*place.relative_to(start).parts, name), parts[first:]) and (place / name).is_file()
    )


def left_out_text(left_out: Counter[str]) -> str:
    """Return what `find_images` has left out as text: "left out: 12 hidden files, 3 .heic", or "" for nothing."""
    parts = [
        f"{count:,} {kind}{' file' + 's' * (count > 1) if kind in (HIDDEN, SPECIAL) else ''}"
        for kind, count in sorted(left_out.items(), key=lambda item: (item[0] != HIDDEN, item[0]))
    ]
    return f"left out: {', '.join(parts)}" if parts else ""


def folder_names(path: Path) -> list[str]:
    """Return the sorted names of the folders in `path`, without hidden ones."""
    return sorted(child.name for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))


def _walk(folder: Path, seen: set[tuple[int, int]] | None = None) -> Iterator[tuple[Path, list[str]]]:
    """Yield each folder below `folder` with the names of its files, those that links lead to last.

    seen: identifies the folders that are not read; by default those above `folder`, to which a link may lead.
    """
    if seen is None:
        seen = {(status.st_dev, status.st_ino) for status in map(os.stat, folder.resolve().parents)}

    def refuse(error: OSError) -> None:
        raise error

    links = []
    for place, folders, files in os.walk(folder, onerror=refuse):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        links += [path for path in (Path(place, name) for name in folders) if path.is_symlink()]
        yield Path(place), files
    for link in links:
        yield from _walk(link, seen)


def _is_regular(path: str) -> bool:
    """Return True for a regular file, and for a link that leads nowhere, which is reported when it is read."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return True


def _fits(names: Sequence[str], pattern: Sequence[str]) -> bool:
    """Return True if the names of a path fit the parts of a pattern, of which ** is any number of names."""
    if not pattern:
        return not names
    if pattern[0] == "**":
        return _fits(names, pattern[1:]) or (bool(names) and not names[0].startswith(".") and _fits(names[1:], pattern))
    return (
        bool(names)
        and (not names[0].startswith(".") or pattern[0].startswith("."))
        and fnmatchcase(names[0], pattern[0])
        and _fits(names[1:], pattern[1:])
    )
