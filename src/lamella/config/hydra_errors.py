"""Exceptions of Hydra and OmegaConf, explained in the words of the config: one function for each type of exception."""

import re
from collections.abc import Iterator
from functools import singledispatch
from pathlib import Path

from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigIndexError,
    ConfigKeyError,
    ConfigTypeError,
    InterpolationKeyError,
    InterpolationToMissingValueError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from lamella.config.files import GROUPS, LISTS, find_config, read_raw, shown_path
from lamella.config.hints import CHOSEN, hint_for_key, misplaced_option, options_of
from lamella.config.hydra_internals import config_root
from lamella.errors import RequestError, first_line, nearest, nearest_keys


@singledispatch
def explain_exception(error: BaseException, outer: str) -> RequestError | None:
    """Return what an exception means for somebody who writes configs, or None for an exception of another kind.

    The function is chosen by the type of `error`. outer: the message of the exception of Hydra that `error` caused,
    which may name the config file; it is the message of `error` itself where there is no other.
    """
    return None


@explain_exception.register
def _missing_option(error: MissingConfigException, outer: str) -> RequestError:
    """Explain an option that a group does not have."""
    if not error.missing_cfg_file:
        return _failed_composition(error, outer)
    group, _, option = str(error.missing_cfg_file).rpartition("/")
    parent, _, inner = group.rpartition("/")
    if parent and inner in GROUPS:
        return RequestError(
            f"conf/{parent}/…: its defaults choose {inner}: {option} inside of {parent}; write "
            f"`- override /{inner}: {option}`"
        )
    # `default` is the base of a group's other options; only in the group trainer it is an option itself.
    options = [name for name in error.options or options_of(group) if name != "default" or group == "trainer"]
    hint = misplaced_option(group, option) or nearest(option, options)
    return RequestError(f"{group}={option}: there is no such option; {hint}")


@explain_exception.register
def _wrong_type(error: ConfigTypeError, outer: str) -> RequestError:
    """Explain a list and a mapping that cannot be merged, or another value of a wrong type."""
    message = str(error)
    return _list_and_mapping(error, outer) if "ListConfig" in message and "merge" in message else _other(error, outer)


@explain_exception.register
def _missing_value(error: InterpolationToMissingValueError | MissingMandatoryValue, outer: str) -> RequestError:
    """Explain a value that is still `???`."""
    key = str(error.full_key or "")
    # An interpolation names the key that it reads in its message, and that is the key to be set.
    missing = re.search(r"Missing mandatory value: ([\w.]+)", str(error))
    if isinstance(error, InterpolationToMissingValueError) and missing:
        key = missing[1]
    return RequestError(f"{key} is ???: it must be set, as in {key}=…", key)


@explain_exception.register
def _unknown_interpolation(error: InterpolationKeyError, outer: str) -> RequestError:
    """Explain an interpolation of a key that does not exist."""
    unknown = re.sub(r".*'(.*)'.*", r"\1", first_line(error))
    close = nearest_keys(unknown, _keys(error.parent_node))
    group, _, name = unknown.rpartition(".")
    parted = (key.rpartition(".") for key in _keys(error.parent_node))
    neighbours = [last for place, _, last in parted if place == group and last != "_target_"]
    hint = f"; did you mean {close[0]}?" if close else f"; {nearest(name, neighbours)}" if neighbours and group else ""
    key = str(error.full_key)
    message = f"{key} is {error.child_node}, but there is no key {unknown}{hint}"
    return RequestError(message, re.sub(r"\[(\d+)\]", r".\1", key))


@explain_exception.register
def _index_past_the_end(error: ConfigIndexError, outer: str) -> RequestError:
    """Explain an override of a list item that does not exist."""
    return RequestError(f"{error.full_key}: the list has {len(error.parent_node)} items, numbered from 0")


@explain_exception.register
def _unknown_key(error: ConfigKeyError | ConfigAttributeError, outer: str) -> RequestError:
    """Explain an override of a key that does not exist, and suggest the nearest key."""
    key = str(error.full_key)
    close = nearest_keys(key, _keys(error.parent_node)) if "." not in key else []
    hint = f"did you mean {close[0]}?" if close else hint_for_key(key)
    if hint:
        return RequestError(f"{key}: there is no such key; {hint}")
    neighbours = [name for name in error.parent_node or () if name not in ("hydra", "_target_")]
    advice = f"\n  a key that no file states is added with a plus: +{key}=…"
    if key.startswith("hydra.sweeper."):
        advice = "\n  a search takes hydra/sweeper=optuna"
    elif key.startswith(("sweep.", "hydra.launcher.")):
        advice = ""
    return RequestError(f"{key}: there is no such key; {nearest(str(error.key), neighbours)}{advice}")


@explain_exception.register
def _failed_composition(error: ConfigCompositionException, outer: str) -> RequestError:
    """Explain any other config that Hydra cannot compose."""
    message = first_line(error)
    unmatched = re.search(r"Could not override '([\w/@.]+)'", str(error))
    if unmatched:
        return _unknown_group(unmatched[1], str(error))
    twice = re.match(r"Multiple values for ([\w/@.]+)\.", message)
    if twice:
        group = twice[1]
        return RequestError(
            f"{group}: this group is chosen twice; a file chooses another with `- override /{group}: OPTION`"
        )
    present = re.match(r"Could not append to config. An item is already at '(.*)'", message)
    if present:
        return RequestError(f"{present[1]}: this key is there already; write {present[1]}=… without a plus")
    return RequestError(message)


@explain_exception.register
def _defaults_of_another_type(error: ValueError, outer: str) -> RequestError | None:
    """Explain a `defaults` that is no list, and a name where a list takes a number."""
    message = first_line(error)
    if named := re.match(r"invalid literal for int\(\) with base 10: ('.*')", message):
        return RequestError(
            f"{named[1]}: a list has no such item, its items are numbered from 0; write the whole list, as KEY=[…]"
        )
    if "defaults must be a list" not in message:
        return None
    path = find_config(re.sub(r".*'(.*)'.*", r"\1", message))
    return RequestError(f"{path}: `defaults` takes a list; write a dash before each, as in `- override /network: cnn`")


@explain_exception.register
def _other(error: OmegaConfBaseException, outer: str) -> RequestError:
    """Explain any other exception of OmegaConf by its own first line and its key."""
    key, message = str(error.full_key or ""), first_line(error)
    return RequestError(f"{key}: {message}" if key else message, key or None)


def _unknown_group(name: str, message: str) -> RequestError:
    """Return the error for `override /name: …` in a list of defaults, where there is no such group to override."""
    path, group = _config_named_in(message), re.sub(r"@.*|.*/", "", name)
    hint = nearest(group, CHOSEN)
    if path is None:
        return RequestError(f"{name}: there is no such group; {hint}")
    if group in GROUPS:
        hint = f"write `- override /{group}: …`, and `# @package _global_` as the first line of the file"
    return RequestError(f"{shown_path(path)}: there is no group {name!r} to override; {hint}")


def _list_and_mapping(error: ConfigTypeError, outer: str) -> RequestError:
    """Return the error for a list and a mapping that were to be merged.

    Hydra's message names the file and not the key, so that the key is searched for in the file.
    """
    key, path = str(error.full_key or ""), _config_named_in(outer)
    is_list = not OmegaConf.is_list(error.parent_node)
    if path:
        base = OmegaConf.to_container(error.parent_node, resolve=False) if error.parent_node is not None else {}
        content, group = read_raw(path), path.parent.name
        over = {group: content} if group in GROUPS else content
        key, is_list = next(_mismatches(over, base), (key, is_list))
    where = f"{path}: " if path else ""
    if not is_list:
        advice = "write the whole list there" if path else f"write the whole list, as '{key}=[…]'"
        return RequestError(f"{where}{key} is a list, and a mapping cannot replace it;\n  {advice}", key)
    advice = "write a mapping there too" if path else f"write a mapping too, or {key}=null for none"
    if key.endswith("layers"):
        advice = (
            "a mapping merges with a mapping only; start from a network whose layers are a list, as network=linear, "
            "or put the list into a file of its own, conf/network/NAME.yaml"
        )
    if key in LISTS:
        advice = f"in an experiment, options are chosen with `- override /{key}: [OPTION, …]` in its list of defaults"
    return RequestError(f"{where}{key} is a mapping, and a list cannot replace it;\n  {advice}", key)


def _config_named_in(message: str) -> Path | None:
    """Return the path of the config file that a message of Hydra names, or None."""
    named = re.search(r"In '([^']+)'", message)
    return find_config(named[1]) if named else None


def _mismatches(over: object, base: object, key: str = "") -> Iterator[tuple[str, bool]]:
    """Yield each key at which one config has a list and the other a mapping, with True where `over` has the list."""
    if isinstance(over, dict) and isinstance(base, dict):
        for name, value in over.items():
            yield from _mismatches(value, base.get(name), f"{key}.{name}".lstrip("."))
    elif isinstance(over, list | dict) and isinstance(base, list | dict) and type(over) is not type(base):
        yield key, isinstance(over, list)


def _keys(node: object) -> Iterator[str]:
    """Yield every dotted key of the config that `node` is in, those below `hydra` left out."""
    root = config_root(node)
    if not isinstance(root, DictConfig):
        return
    mappings = [("", OmegaConf.to_container(root, resolve=False))]
    for prefix, mapping in mappings:
        for name, value in mapping.items() if isinstance(mapping, dict) else ():
            yield f"{prefix}{name!s}"
            if isinstance(value, dict) and name != "hydra":
                mappings.append((f"{prefix}{name!s}.", value))
