"""Ask git about the repository around the working directory, and run no program that the repository names.

A repository may name programs in its configuration, in its hooks and in its submodules: filters, monitors, differs,
pagers, transports. Git therefore gets a temporary directory in place of `.git`. It has no hooks, a configuration with a
few plain values of the original one, a copy of the index, and links to the objects and refs.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

Git = Callable[..., bytes]
SECONDS = 60  # the longest time that one command of git may take, as a FIFO in the repository would stop it for ever
LINKED = ("objects", "refs", "packed-refs", "info", "shallow")
# How git compares the files on the disk with those that it stores. None of these values names a program or a file.
PLAIN_KEYS = r"^(core\.(filemode|symlinks|ignorecase|precomposeunicode|autocrlf|eol)|extensions\.objectformat)$"
# What git would start at the wish of the user's own configuration, without any use for it here.
NO_PROGRAMS = ("--no-pager", "-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}")


@contextmanager
def open_repository(start: Path) -> Iterator[tuple[Path, Git] | None]:
    """Yield the top folder of the repository around `start`, and a function that calls git there; None outside of one.

    The function takes the arguments of git and `given`, the standard input, and returns the standard output. It raises
    OSError where git is missing, and subprocess.SubprocessError where git fails or takes longer than SECONDS.
    """
    top = next((folder for folder in (start, *start.parents) if _git_folder(folder)), None)
    if top is None:
        yield None
        return
    folder = _git_folder(top)
    assert folder is not None
    with TemporaryDirectory(prefix="lamella-git-") as temporary:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        environ |= {"GIT_DIR": temporary, "GIT_WORK_TREE": str(top), "GIT_NO_LAZY_FETCH": "1"}

        def git(*arguments: str, given: bytes = b"") -> bytes:
            command = ["git", *NO_PROGRAMS, *arguments]
            return subprocess.run(
                command, input=given, capture_output=True, check=True, cwd=top, env=environ, timeout=SECONDS
            ).stdout

        _fill(Path(temporary), folder, git)
        yield top, git


def _git_folder(top: Path) -> Path | None:
    """Return the folder in which git keeps the repository of `top`, None where `top` is not the top of one."""
    folder = top / ".git"
    if folder.is_file():  # of a worktree, or of a submodule
        with folder.open("rb") as file:
            folder = top / os.fsdecode(file.read(4096).removeprefix(b"gitdir:").strip())
    return folder if (folder / "HEAD").is_file() else None


def _fill(temporary: Path, folder: Path, git: Git) -> None:
    """Make the temporary directory a git directory with the content of the one in `folder`."""
    pointer = folder / "commondir"
    common = folder  # which worktrees share
    if pointer.is_file():
        common = folder / pointer.read_text("utf-8", "surrogateescape").strip()
    linked = [common / name for name in LINKED] + list(folder.glob("sharedindex.*"))
    for path in linked:
        if path.exists():
            (temporary / path.name).symlink_to(path.resolve())
    for name in ("HEAD", "index"):
        if (folder / name).is_file():
            shutil.copy2(folder / name, temporary / name)  # git goes by the time at which the index was written
    settings = "[core]\nrepositoryformatversion = 1\nbare = false\n"
    if (common / "config").is_file():
        arguments = ("--file", str((common / "config").resolve()), "--no-includes", "--null", "--get-regexp")
        try:
            found = os.fsdecode(git("config", *arguments, PLAIN_KEYS))
        except subprocess.CalledProcessError:  # there is no such key
            found = ""
        for section, name, value in re.findall(r"(\w+)\.(\w+)\n(\w+)\0", found):
            settings += f"[{section}]\n{name} = {value}\n"
    (temporary / "config").write_text(settings, "utf-8", "surrogateescape")
