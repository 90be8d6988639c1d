"""Where configs are: the project's own `conf/` first, then the one that comes with Lamella."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import yaml

GROUPS = ("data", "network", "loss", "optimizer", "scheduler", "device", "trainer", "visuals")
# Beside this package in a wheel, at the top of the repository in an editable install.
SHIPPED = next(
    path for path in (Path(__file__).parents[1] / "conf", Path(__file__).parents[3] / "conf") if path.is_dir()
)
_project = ContextVar("project", default=Path("conf"))


def project_folder() -> Path:
    """Return the folder whose configs come before the shipped ones: `conf/` in the working directory."""
    return _project.get()


@contextmanager
def composing_from(folder: Path) -> Iterator[None]:
    """Compose from `folder` in place of the project's `conf/`, as a resumed search does from its copy."""
    token = _project.set(folder)
    try:
        yield
    finally:
        _project.reset(token)


def find_config(name: str) -> Path | None:
    """The file of a config such as "network/cnn", as it would be found."""
    candidates = [folder / f"{name}.yaml" for folder in (project_folder(), SHIPPED)]
    return next((path for path in candidates if path.is_file()), None)


def read_raw(path: Path) -> Any:
    """A config file as it is written, before composition."""
    try:
        return yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None


def value_origin(key: str, overrides: Sequence[str], choices: Mapping[str, Any], follow: bool = True) -> str | None:
    """Which override or file a config key got its value from.

    overrides: the command line's. choices: the option chosen in each group, None for none. follow: where the value
    is an interpolation, tell where what it reads comes from.
    """
    given = _override(key, overrides, choices)
    if given:
        return given
    group, _, rest = key.partition(".")
    option = choices.get(group)
    # A file of a group states the keys below the group's; an experiment and the primary config state all.
    candidates = [
        (f"experiment/{choices.get('experiment')}", key),
        (f"{group}/{option}", rest),
        (f"{group}/default", rest),
    ]
    for name, inside in [*candidates, ("config", key)]:
        path = find_config(name)
        found, value = _look_up(read_raw(path), inside) if path else (False, None)
        if path and found:
            interpolated = re.fullmatch(r"\$\{([\w.]+)\}", value) if follow and isinstance(value, str) else None
            # A mapping is to blame for what it reads, where that was given by hand.
            for inner in value.values() if isinstance(value, dict) else ():
                read = re.fullmatch(r"\$\{([\w.]+)\}", inner) if isinstance(inner, str) else None
                given = read and _override(read[1], overrides, choices)
                if given:
                    return given
            # One step: an interpolation may lead back to itself.
            return (interpolated and value_origin(interpolated[1], overrides, choices, follow=False)) or _shown(path)
    path = find_config(f"{group}/{option}")
    return _shown(path) if path else None


def _override(key: str, overrides: Sequence[str], choices: Mapping[str, Any]) -> str | None:
    for override in reversed(overrides):
        name = override.lstrip("+~").partition("=")[0].partition("@")[0]
        if key == name or (key.startswith(f"{name}.") and name not in choices):
            return f"the command line: {override}"
    return None


def _look_up(node: Any, key: str) -> tuple[bool, Any]:
    """Whether a file states a key, and the deepest value on the way to it."""
    for number, part in enumerate(key.split(".") if key else []):
        if isinstance(node, dict) and part in node:
            node = node[part]
        elif isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            return number > 0 and not isinstance(node, dict), node
    return True, node


def _shown(path: Path) -> str:
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
