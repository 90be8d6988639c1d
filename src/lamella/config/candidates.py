"""What overrides can begin with, for the completion of shells: groups, options and keys, read without Hydra."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from lamella.config.file_keys import keys_in_file
from lamella.config.files import SHIPPED, chooses_option, find_config, project_folder
from lamella.config.hints import options_of
from lamella.config.values import flow_text, key_of

Candidates = Iterator[tuple[str, str]]  # words, each with what it means
CHOICE = re.compile(r"defaults\.\d+\.(?:override |optional )*/?([^@.]+)")
BASE = re.compile(r"defaults\.\d+")  # an entry without a group: a file in the same folder


def override_candidates(word: str, given: Sequence[str]) -> Candidates:
    """Yield what an override can become. A candidate that ends with `=`, a dot or a slash is to be continued.

    word: the override so far. given: the other arguments, which may choose options.
    """
    sign = word[: len(word) - len(word.lstrip("+~"))]
    name, equals, value = word.removeprefix(sign).partition("=")
    if not equals:
        for group in _groups():
            yield f"{sign}{group}=", "chooses an option"
        for key, text in key_candidates(name, given):
            yield f"{sign}{key}" + ("" if key.endswith(".") or sign == "~" else "="), text
    elif options := options_of(name):
        written = value[: 1 + max(map(value.rfind, "[,"))]  # the options before this one
        for option in options:
            yield f"{sign}{name}={written}{option}{']' * ('[' in written)}", _purpose(f"{name}/{option}")
    elif config_keys(given).get(name) in ("true", "false"):
        yield from ((f"{sign}{name}={choice}", "") for choice in ("true", "false"))
    elif value:
        yield from ((f"{sign}{name}={path}", meaning) for path, meaning in path_candidates(value))


def key_candidates(word: str, given: Sequence[str]) -> Candidates:
    """Yield the keys that a word can become, up to their next dot, with the values that files write for them."""
    found: dict[str, str] = {}
    for key, text in config_keys(given).items():
        if key.startswith(word) and "_target_" not in key and (not key.startswith("hydra.") or word.startswith("h")):
            head, dot, _ = key[len(word) :].partition(".")
            found.setdefault(f"{word}{head}{dot}", "" if dot else text)
    yield from found.items()


def path_candidates(word: str, only_folders: bool = False) -> Candidates:
    """Yield the files and folders that a path can become. A folder ends with a slash, except the directory of a run."""
    folder, slash, start = word.rpartition("/")
    place = Path(folder or slash or ".").expanduser()
    for path in sorted(place.iterdir()) if place.is_dir() else []:
        if not path.name.startswith(start) or (path.name.startswith(".") and not start):
            continue
        if (path / "run.json").is_file():
            yield f"{folder}{slash}{path.name}", "a run"
        elif path.is_dir() or not only_folders:
            yield f"{folder}{slash}{path.name}" + "/" * path.is_dir(), ""


def config_keys(given: Sequence[str]) -> dict[str, str]:
    """Return the keys that a config has with these overrides, with their values as they are written.

    The files of the chosen options are read in the order in which Hydra composes them. Headers that place a file
    elsewhere in the config are not read.
    """
    typed = {key_of(text): text.partition("=")[2] for text in given if chooses_option(text)}
    first = list(_with_bases("config"))
    experiments = _names("experiment", typed.get("experiment", _choices(first).get("experiment", "null")))
    choices = _choices([*first, *experiments]) | typed
    options = [name for group, option in choices.items() if group != "experiment" for name in _names(group, option)]
    keys: dict[str, str] = {}
    for name in [*first, *options, *experiments]:
        group = name.rpartition("/")[0]
        place = "" if group in ("", "experiment") else f"{group.replace('/', '.')}."
        written = {key: value for key, (value, _) in _written(name).items() if not key.startswith("defaults")}
        lists = tuple(f"{key}." for key, value in written.items() if isinstance(value, list))
        keys |= {
            f"{place}{key}": flow_text(value)
            for key, value in written.items()
            if not key.startswith(lists) and not (isinstance(value, dict) and value)
        }
    above = {key[:place] for key in keys for place, letter in enumerate(key) if letter == "."}
    return {key: text for key, text in keys.items() if key not in above}


def _choices(names: Sequence[str]) -> dict[str, str]:
    """Return the options that the defaults of config files choose, by group; later files count more."""
    entries = [(CHOICE.fullmatch(key), value) for name in names for key, (value, _) in _written(name).items()]
    return {entry[1]: flow_text(value) for entry, value in entries if entry}


def _names(group: str, options: str) -> list[str]:
    """Return the config files of one option of a group, or of several as in `[f1,auroc]`, with those they build on."""
    return [name for option in re.findall(r"[^\[\], ]+", options) for name in _with_bases(f"{group}/{option}")]


def _with_bases(name: str, *above: str) -> Iterator[str]:
    """Yield a config file and before it those that it builds on, as `default`. above: the files that build on it."""
    for key, (value, _) in _written(name).items():
        base = f"{name.rpartition('/')[0]}/{value}".lstrip("/")
        if BASE.fullmatch(key) and isinstance(value, str) and value != "_self_" and base not in (name, *above):
            yield from _with_bases(base, name, *above)
    yield name


def _written(name: str) -> dict[str, tuple[object, int]]:
    path = find_config(name)
    return keys_in_file(path) if path else {}


def _groups() -> list[str]:
    """Return the folders of config files, as `network` and `hydra/launcher`."""
    files = [(path, conf) for conf in (project_folder(), SHIPPED) for path in conf.glob("**/*.yaml")]
    return sorted({str(path.parent.relative_to(conf)) for path, conf in files if path.parent != conf})


def _purpose(name: str) -> str:
    """Return the first comment of a config file, without a header of Hydra's."""
    path = find_config(name)
    lines = path.read_text("utf-8", "replace").splitlines() if path else []
    comments = [line[1:].strip() for line in lines if line.startswith("#") and "@package" not in line]
    return comments[0] if comments else ""
