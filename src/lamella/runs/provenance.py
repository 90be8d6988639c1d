"""What a run was made with: the versions of the packages, and the commit of the code."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from lamella.config.project import inside_run_directory

PACKAGES = ("lamella", "torch", "torchvision", "pytorch-lightning", "hydra-core")


def installed_versions() -> dict[str, object]:
    """Return the versions of Python and of the packages on which a result depends, by name."""
    return {"python": sys.version.split()[0], **{name: version(name) for name in PACKAGES}}


def git_state(patch: Path) -> dict[str, object] | None:
    """Return the commit of the working directory and whether it has changes, and write the changes to `patch`.

    Return None outside a repository.
    """

    def git(*arguments: str) -> bytes:
        # A repository may name a program that watches its files (core.fsmonitor). No such program is started.
        return subprocess.run(["git", "-c", "core.fsmonitor=false", *arguments], capture_output=True, check=True).stdout

    if inside_run_directory():
        return None
    try:
        commit = git("rev-parse", "HEAD").decode().strip()
        changes = git("diff", "--no-color", "--no-ext-diff", "--no-textconv", "--binary", "HEAD")
        dirty = bool(git("status", "--porcelain", "--untracked-files=normal"))
    except (OSError, subprocess.CalledProcessError):
        return None
    if changes:
        patch.write_bytes(changes)
    return {"commit": commit, "dirty": dirty}
