"""Make the image files of a data set readable: decoded into memory, mapped from a cache, or checked."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch

from lamella.data.cache import load_images, map_images
from lamella.data.decoder import UnreadableImages
from lamella.data.images import ImageFiles
from lamella.data.samples import Samples, Splits

SHOWN = 5  # unreadable files that a note names


def readable(samples: Samples, in_memory: bool, cache: str | None) -> Samples:
    """Return samples whose image files are in memory or in a cache, or whose headers have been checked.

    in_memory, cache: as in `Data`. Raises UnreadableImages, and RequestError if the cache cannot be written.
    """
    files = samples.inputs
    if not isinstance(files, ImageFiles):
        return samples
    if cache:
        return replace(samples, inputs=map_images(files))
    if in_memory:
        return replace(samples, inputs=load_images(files))
    files.check()
    return samples


def check_headers(parts: Iterable[Samples]) -> None:
    """Raise UnreadableImages that names each image file that is no image, as far as its header and its end tell."""
    together([part.inputs.check for part in parts if isinstance(part.inputs, ImageFiles)])


def together(actions: Iterable[Callable[[], None]]) -> None:
    """Call each action, and raise one UnreadableImages for the files of all."""
    problems: list[str] = []
    for action in actions:
        try:
            action()
        except UnreadableImages as error:
            problems += error.problems
    if problems:
        raise UnreadableImages(*dict.fromkeys(problems))


def without_unreadable(source: Splits) -> Splits:
    """Return the splits without the image files that cannot be decoded, which `left_out` then names."""
    names, kept = list[str](), dict[str, Samples | None]()
    for name in ("train", "val", "test"):
        samples: Samples | None = getattr(source, name)
        if samples is not None and isinstance(samples.inputs, ImageFiles):
            files = samples.inputs
            problems = files.problems()
            paths = files.paths[files.rows.numpy()]
            names += [str(paths[number]) for number in problems]
            good = [number for number in range(len(files)) if number not in problems]
            samples = replace(samples.take(torch.tensor(good)), inputs=ImageFiles(paths[good], files.decoder))
        kept[name] = samples
    if not names:
        return source
    more = f"{len(names):,} unreadable file{'s' * (len(names) > 1)} ({', '.join(names[:SHOWN])}"
    more += ", …)" if len(names) > SHOWN else ")"
    left_out = f"{source.left_out}, {more}" if source.left_out else f"left out: {more}"
    return replace(source, **kept, left_out=left_out)  # type: ignore[arg-type]
