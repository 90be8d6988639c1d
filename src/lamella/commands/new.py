"""lamella new DIR: write a project that trains at once, to change into your own.

lamella new spirals
cd spirals && lamella train experiment=first
"""

import shlex
from pathlib import Path

from lamella.atomic_files import write_atomically
from lamella.commands.parser import CommandParser
from lamella.console import print
from lamella.errors import RequestError

# The files are beside this package in a wheel, and at the top of the repository in an editable install.
STARTER = next(
    path for path in (Path(__file__).parents[1] / "starter", Path(__file__).parents[3] / "starter") if path.is_dir()
)
FILES = (
    ".github/workflows/test.yml",
    ".gitignore",
    "README.md",
    "conf/data/mine.yaml",
    "conf/experiment/first.yaml",
    "conf/network/mine.yaml",
    "mine.py",
    "pyproject.toml",
    "test_mine.py",
)
TITLED, TITLE = "README.md", "PROJECT"  # the file that names the project, and what stands there for the name


def main(arguments: list[str]) -> int:
    """Write the files of a project into a new or an empty directory, and return the exit status."""
    parser = CommandParser(__doc__)
    parser.add_argument("directory", metavar="DIR", type=Path, help="a directory that is new or empty")
    directory: Path = parser.parse_args(arguments).directory
    if directory.exists() and not directory.is_dir():
        raise RequestError(f"{directory} is a file; `lamella new` takes a directory that is new or empty")
    if directory.exists() and any(directory.iterdir()):
        raise RequestError(f"{directory} is not empty, so nothing was written; name a directory that is new or empty")
    for name in FILES:
        text = (STARTER / name).read_text("utf-8")
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.replace(TITLE, directory.resolve().name) if name == TITLED else text)
    print(f"{directory}: {len(FILES)} files, which README.md describes; to go on:")
    print(f"  cd {shlex.quote(str(directory))}")
    print("  lamella train experiment=first")
    return 0
