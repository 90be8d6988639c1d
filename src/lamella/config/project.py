"""What the project's own pyproject.toml allows a config: packages, environment variables and folders to write to."""

import re
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any

from lamella.errors import RequestError

FILE = Path("pyproject.toml")


def allowed_targets() -> list[str]:
    """Return the packages of the project that a config may build from. Raises RequestError."""
    return _names("targets", 'names of packages, ["mine"]')


def allowed_variables() -> list[str]:
    """Return the environment variables that a config may read. Raises RequestError."""
    return _names("environment", 'names of variables, ["DATA_ROOT"]')


def allowed_folders() -> list[str]:
    """Return the folders outside of the run directory that a config may write to. Raises RequestError."""
    return _names("write", 'folders, ["logs"]', ".+")


def inside_run_directory() -> bool:
    """Return True if the working directory is inside a run or sweep directory.

    Such a directory may come from a stranger, so that its pyproject.toml allows nothing.
    """
    here = Path.cwd()
    return any((folder / name).exists() for folder in (here, *here.parents) for name in ("run.json", "sweep.json"))


def _names(key: str, wanted: str, pattern: str = r"[\w.]+") -> list[str]:
    """Return the list of names that `[tool.lamella]` has at `key`.

    wanted: what the list takes, for a message. pattern: the form of a name.
    """
    if not FILE.is_file() or inside_run_directory():
        return []
    try:
        names = _settings(FILE.read_text("utf-8")).get(key, [])
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"pyproject.toml: {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) and re.fullmatch(pattern, name) for name in names):
        raise RequestError(f"pyproject.toml: [tool.lamella] {key} is {names!r}; it takes {wanted}")
    return [*names]


@lru_cache(1)  # each check of a `_target_` asks for it
def _settings(text: str) -> dict[str, Any]:
    """Return the table `[tool.lamella]` of the text of a pyproject.toml."""
    settings: dict[str, Any] = tomllib.loads(text).get("tool", {}).get("lamella", {})
    return settings
