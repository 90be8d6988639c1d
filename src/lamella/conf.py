"""Where configs are: the project's own `conf/` first, then the one that comes with Lamella."""

from pathlib import Path
from typing import Any

import yaml

PROJECT = Path("conf")
# Beside this module in a wheel, at the top of the repository in an editable install.
OWN = next(path for path in (Path(__file__).parent / "conf", Path(__file__).parents[2] / "conf") if path.is_dir())


def find(name: str) -> Path | None:
    """The file of a config such as "network/cnn", as it would be found."""
    candidates = [folder / f"{name}.yaml" for folder in (PROJECT, OWN)]
    return next((path for path in candidates if path.is_file()), None)


def raw(path: Path) -> Any:
    """A config file as it is written, before composition."""
    try:
        return yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError):
        return None


def origin(key: str, overrides: list[str], choices: dict[str, Any]) -> str | None:
    """Which override or file a config key got its value from.

    overrides: the command line's. choices: the option chosen in each group, None for none.
    """
    for override in reversed(overrides):
        name = override.lstrip("+~").partition("=")[0].partition("@")[0]
        if key == name or (key.startswith(f"{name}.") and name not in choices):
            return f"the command line: {override}"
    group, _, rest = key.partition(".")
    experiment = choices.get("experiment") and find(f"experiment/{choices['experiment']}")
    if experiment and _holds(raw(experiment), key):
        return _shown(experiment)
    if choices.get(group):
        for option in (choices[group], "default"):
            path = find(f"{group}/{option}")
            if path and (_holds(raw(path), rest) or option == "default" or not rest):
                return _shown(path)
        path = find(f"{group}/{choices[group]}")
        return _shown(path) if path else None
    path = find("config")
    return _shown(path) if path and _holds(raw(path), key) else None


def _holds(node: Any, key: str) -> bool:
    """Whether a key, or the nearest thing above it that is not the top, stands in a file."""
    return isinstance(node, dict) and key.partition(".")[0] in node and _deeper(node, key)


def _deeper(node: Any, key: str) -> bool:
    first, _, rest = key.partition(".")
    if not isinstance(node, dict) or first not in node:
        return not isinstance(node, dict)
    return not rest or _deeper(node[first], rest)


def _shown(path: Path) -> str:
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
