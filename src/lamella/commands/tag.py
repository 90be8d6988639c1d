"""lamella tag RUN… WORD… -WORD…: add tags to runs or sweeps and remove them; without a word, print them.

lamella tag outputs/default/defaults good baseline
lamella tag outputs/default/* -baseline
"""

import os
import re
from itertools import takewhile
from pathlib import Path

from lamella.commands.parser import CommandParser
from lamella.commands.several_runs import is_path, runs_among
from lamella.console import print
from lamella.errors import RequestError, nearest
from lamella.runs.notes import annotate, read_notes

TAG = re.compile(r"[^\W_][\w.+-]{0,49}")


def main(arguments: list[str]) -> int:
    """Add and remove tags, or print them, and return the exit status."""
    parser = CommandParser(__doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="directories of runs or sweeps, then the words")
    given: list[str] = parser.parse_words(arguments).runs
    names = [given[0], *takewhile(is_path, given[1:])] if os.path.exists(given[0]) else []
    words = given[len(names) :]
    if run := next((word for word in words if is_path(word)), None):
        first = [word for word in words if word != run]
        raise RequestError(f"runs come before tags: lamella tag {' '.join([*names, run, *first])}")
    for word in words:
        if not TAG.fullmatch(word.removeprefix("-")):
            raise RequestError(
                f"{word!r} is not a tag, which is a word of letters, digits and . _ + -; a minus sign before it "
                "removes it"
            )
    if not names:
        raise RequestError(f"{words[0]}: there is no such run; `lamella tag outputs/NAME/RUN {words[0]}` adds a tag")
    paths = runs_among([Path(name) for name in names], sweeps=True)
    notes = [read_notes(path) for path in paths]
    add = [word for word in words if not word.startswith("-")]
    remove = [word[1:] for word in words if word.startswith("-")]
    known = {tag for found in notes for tag in found.tags}
    for word in remove:
        if word not in known:
            raise RequestError(f"-{word}: there is no such tag to remove; {nearest(word, known)}")
        if word in add:
            raise RequestError(f"{word} is to be added and removed; write one of both")
    if words:
        notes = [annotate(path, add=add, remove=remove) for path in paths]
    for path, found in zip(paths, notes, strict=True):
        print(f"{path}: {' '.join(found.tags) or 'no tags'}")
    return 0
