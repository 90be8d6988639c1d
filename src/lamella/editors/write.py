"""Write the schemas of a project's config files, and tell VS Code which file has which."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from lamella.atomic_files import write_atomically
from lamella.config.files import shown_path
from lamella.editors.files import FILES, config_schemas
from lamella.editors.targets import OwnModules
from lamella.editors.vscode import SETTINGS, with_schemas
from lamella.errors import RequestError


def write_schemas(directory: Path, vscode: bool) -> Iterator[str]:
    """Write the schemas into a directory, and yield lines that say so.

    vscode: whether .vscode/settings.json is to name them. Raises RequestError, before anything is written, for a
    settings.json that cannot be read; and where a file cannot be written.
    """
    paths = {name: directory / f"{name}.json" for name in FILES}
    settings = _settings(paths) if vscode else None
    own = OwnModules.find()
    schemas = config_schemas(own)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, schema in schemas.items():
            write_atomically(paths[name], f"{json.dumps(schema, ensure_ascii=False, separators=(',', ':'))}\n")
        if settings is not None:
            SETTINGS.parent.mkdir(exist_ok=True)
            write_atomically(SETTINGS, settings)
    except OSError as error:
        raise RequestError(f"{error.filename}: it cannot be written ({error.strerror})") from error
    yield f"{len(schemas)} schemas in {shown_path(directory)}"
    yield from (
        f"note: {name} cannot be imported, so nothing in it is offered: {why}" for name, why in own.failed.items()
    )
    if settings is not None:
        yield f"{SETTINGS} names them, for the extension YAML of Red Hat (redhat.vscode-yaml)"
    else:
        yield "`lamella schema --vscode` names them in .vscode/settings.json; docs/editors.md says how others find them"


def _settings(paths: dict[str, Path]) -> str:
    """Return what .vscode/settings.json is to hold. paths: of the schemas."""
    try:
        # Not read as text, which would change the ends of lines.
        text = SETTINGS.read_bytes().decode("utf-8-sig") if SETTINGS.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{SETTINGS}: it cannot be read ({error})") from error
    patterns = {name: f"conf/{name}/*.yaml" for name in paths} | {"config": "conf/config.yaml"}
    return with_schemas(text, {_relative(path): patterns[name] for name, path in paths.items()})


def _relative(path: Path) -> str:
    """Return how settings.json names a file: from the folder of the project if the file is below it."""
    here = os.path.relpath(path)
    return str(path.absolute()) if here.startswith("..") else f"./{Path(here).as_posix()}"
