"""What the project's own pyproject.toml allows a config: code to build from, and environment variables to read."""

import re
import tomllib
from pathlib import Path

from lamella.errors import RequestError

FILE = Path("pyproject.toml")


def allowed_targets() -> list[str]:
    """The packages of the project that a config may build from. Raises RequestError."""
    return _names("targets", 'names of packages, ["mine"]')


def allowed_variables() -> list[str]:
    """The environment variables that a config may read. Raises RequestError."""
    return _names("environment", 'names of variables, ["DATA_ROOT"]')


def inside_run_directory() -> bool:
    """Whether the working directory is one that came with a run or a sweep, and not the project's."""
    here = Path.cwd()
    return any((folder / name).exists() for folder in (here, *here.parents) for name in ("run.json", "sweep.json"))


def _names(key: str, wanted: str) -> list[str]:
    if not FILE.is_file() or inside_run_directory():
        return []
    try:
        tool = tomllib.loads(FILE.read_text()).get("tool", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"pyproject.toml: {error}") from error
    names = tool.get("lamella", {}).get(key, [])
    if not isinstance(names, list) or not all(
        isinstance(name, str) and re.fullmatch(r"[\w.]+", name) for name in names
    ):
        raise RequestError(f"pyproject.toml: [tool.lamella] {key} is {names!r}; it takes {wanted}")
    return names
