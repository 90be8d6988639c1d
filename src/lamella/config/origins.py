"""Where the values of a composed config come from: which override of the command line, or which line of which file."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.types import RunMode

from lamella.config.file_keys import Written, keys_in_file
from lamella.config.files import chooses_option, shown_path
from lamella.config.grammar import parse_overrides
from lamella.config.interpolations import keys_read
from lamella.config.values import flow_text, key_of, walk

DELETED = "deleted"


@dataclass(frozen=True)
class ConfigFile:
    """A file of a composed config.

    package: the key below which its content is placed; "" is the root. name: the group and the option that the file is
    of, such as "network/cnn"; "config" is the primary config.
    """

    path: Path
    package: str = ""
    name: str = "config"

    @property
    def group(self) -> str:
        """Return the config group that the file is an option of, "" for the primary config."""
        return self.name.rpartition("/")[0]


@dataclass(frozen=True)
class Origin:
    """What one override or one file says about a key.

    value: as it is written, "deleted" where the override deletes the key. place: the override, or the file and the
    line. file: None for an override.
    """

    value: object
    place: str
    file: ConfigFile | None = None

    @property
    def text(self) -> str:
        """Return the value as text."""
        return flow_text(self.value)


def composed_files(loader: ConfigLoader, overrides: Sequence[str]) -> list[ConfigFile]:
    """Return the files that a config with these overrides is composed from, the strongest first.

    Returns an empty list if the config cannot be composed.
    """
    try:
        defaults = loader.compute_defaults_list("config", list(overrides), RunMode.RUN).defaults
    except Exception:
        return []
    folders = [Path(source.path) for source in loader.get_sources() if source.scheme() == "file"]
    files = []
    for default in reversed(defaults):
        paths = [folder / f"{default.config_path}.yaml" for folder in folders]
        files += [
            ConfigFile(path, default.package or "", str(default.config_path)) for path in paths if path.is_file()
        ][:1]
    return files


@dataclass(frozen=True)
class Origins:
    """The overrides and the files that a config is composed from.

    overrides: those of the command line. files: returns the files, the strongest first; it is called if no override
    answers a question.
    """

    overrides: Sequence[str]
    files: Callable[[], Sequence[ConfigFile]] = tuple

    def of_value(self, key: str) -> list[Origin]:
        """Return everything that sets a key, or replaces what it is in, the strongest first."""
        given = (origin_in_override(override, key) for override in reversed(self.overrides))
        written = (origin_in_file(file, key) for file in self.files())
        return [origin for origin in (*given, *written) if origin]

    def inside(self, key: str) -> list[Origin]:
        """Return the overrides that change something inside of the value of a key, from the last to the first."""
        texts = [text for text in reversed(self.overrides) if key_of(text).startswith(f"{key}.")]
        return [Origin(text.partition("=")[2], f"the command line: {text}") for text in texts]

    def of_choice(self, group: str) -> list[Origin]:
        """Return everything that chooses an option of a config group, the strongest first."""
        given = [
            Origin(override.partition("=")[2] or "null", f"the command line: {override}")
            for override in reversed(self.overrides)
            if key_of(override) == group and chooses_option(override)
        ]
        replaced, first = list[Origin](), list[Origin]()
        for file in self.files():
            for key, (value, line) in keys_in_file(file.path).items():
                entry = re.fullmatch(r"defaults\.\d+\.((?:override |optional )*)/?([^@]+)(@.*)?", key)
                if entry and entry[2] == group:
                    origin = Origin(value, f"{shown_path(file.path)}:{line}", file)
                    (replaced if "override" in entry[1] else first).append(origin)
        return [*given, *replaced, *first]

    def place_of(self, key: str, follow: bool = True) -> str | None:
        """Return the place that sets a key, None if it is not known.

        follow: where the value is an interpolation, return the place of the key that it reads. What the command line
        changes inside of the value is part of the place.
        """
        # The option that the command line chooses for a group decides about the group as a whole.
        setting = [text for text in self.overrides if key_of(text) == key or origin_in_override(text, key)][-1:]
        changing = [text for text in self.overrides if key_of(text).startswith(f"{key}.")]
        command_line = f"the command line: {' '.join(setting + changing)}"
        origin = None if setting else next(filter(None, (origin_in_file(file, key) for file in self.files())), None)
        if origin is None:
            return command_line if setting or changing else None
        if changing:
            return f"{origin.place} and {command_line}"
        whole = re.fullmatch(r"\$\{([\w.]+)\}", origin.value) if isinstance(origin.value, str) else None
        if not follow:
            return origin.place
        # Only one step is followed, because an interpolation may lead back to itself.
        if whole:
            return self.place_of(whole[1], follow=False) or origin.place
        given = Origins(self.overrides)
        places = (given.place_of(read, follow=False) for read in keys_read(origin.value, key))
        return next(filter(None, places), origin.place)


def origin_in_override(override: str, key: str) -> Origin | None:
    """Return what an override of the command line says about a key, or None."""
    name, place = key_of(override), f"the command line: {override}"
    if not f"{key}.".startswith(f"{name}.") or chooses_option(override):
        return None
    if override.startswith("~"):
        return Origin(DELETED, place)
    text = override.partition("=")[2]
    if key == name:
        return Origin(text, place)
    value = parse_overrides([override], several=True)[0].value() if text[:1] in "{[" else text
    inner = [(name, value), *walk(value, name)]
    found = _deciding({place: (inside, 0) for place, inside in inner}, key)
    return found and Origin(found[0], place)


def origin_in_file(file: ConfigFile, key: str) -> Origin | None:
    """Return what a file says about a key, or None."""
    written, path = keys_in_file(file.path), shown_path(file.path)
    if key == file.package and written:
        return Origin({name: value for name, (value, _) in written.items() if "." not in name}, path, file)
    inside = key.removeprefix(f"{file.package}.") if file.package else key
    found = None if file.package and inside == key else _deciding(written, inside)
    return found and Origin(found[0], f"{path}:{found[1]}", file)


def _deciding(written: Written, key: str) -> tuple[object, int] | None:
    """Return the value and the line that decide about a key in what is written, None if nothing does.

    If a parent of the key is a plain value, or a list that has no such item, it is that parent that decides.
    """
    while key not in written and "." in key:
        key = key.rpartition(".")[0]
        if key in written:
            return None if isinstance(written[key][0], dict) else written[key]
    return written.get(key)
