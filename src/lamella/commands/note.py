"""lamella note RUN… "TEXT": add a note to runs or sweeps; without a text, print their notes and tags.

lamella note outputs/default/defaults "the learning rate is too high"
lamella note outputs/default/defaults
"""

import os
from pathlib import Path

from lamella.commands.parser import CommandParser
from lamella.commands.several_runs import is_path, runs_among
from lamella.console import print
from lamella.errors import RequestError
from lamella.runs.notes import annotate, read_notes


def main(arguments: list[str]) -> int:
    """Add a note, or print the notes and tags, and return the exit status."""
    parser = CommandParser(__doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", help='directories of runs or sweeps, then the "TEXT"')
    *given, last = parser.parse_words(arguments).runs
    is_text = not (is_path(last) if given else os.path.exists(last))  # Path.exists raises an error for a long text
    text = last if is_text else None
    if given and text is None and not is_path(given[0]) and not os.path.exists(given[0]):
        raise RequestError(f'the run comes before the text: lamella note {last} "{" ".join(given)}"')
    if text is not None and given[1:] and not any(map(is_path, given[1:])):
        raise RequestError(
            f'a text of several words stands in quotes: lamella note {given[0]} "{" ".join([*given[1:], last])}"'
        )
    paths = list(map(Path, given if text is not None else [*given, last]))
    if text is None:
        _print_notes(runs_among(paths, sweeps=True))
        return 0
    if not paths or (not set(text) & {" ", "\n"} and os.path.isdir(os.path.dirname(text))):
        raise RequestError(f'{text}: there is no such run; `lamella note outputs/NAME/RUN "TEXT"` adds a note')
    if not text.strip():
        raise RequestError("the note is empty; `lamella note RUN` without a text prints the notes")
    for path in runs_among(paths, sweeps=True):
        annotate(path, note=text.strip())
        print(f"{path}: noted")
    return 0


def _print_notes(paths: list[Path]) -> None:
    """Print the notes and tags of runs and sweeps, below the path of each where there are several."""
    for path in paths:
        lines = read_notes(path).lines() or ["no notes"]
        print("\n".join([f"{path}:", *lines] if len(paths) > 1 else lines))
