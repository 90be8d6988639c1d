"""What Hydra, OmegaConf and the YAML parser refuse, said in words of the config."""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, Node, OmegaConf
from omegaconf.errors import (
    ConfigIndexError,
    ConfigKeyError,
    ConfigTypeError,
    InterpolationKeyError,
    InterpolationToMissingValueError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from lamella.config.files import GROUPS, find_config, project_folder, read_raw, value_origin
from lamella.errors import RequestError, first_line, nearest


def error_block(error: Exception, overrides: list[str], choices: Mapping[str, Any] | None = None) -> str:
    """The `error: …` block for an exception that composing a config raised.

    overrides: the command line's. choices: the option chosen in each group, where it came that far.
    """
    explained = _request(error)
    source = explained.key and value_origin(explained.key, overrides, choices or {}, follow=not explained.unknown)
    return f"error: {explained}" + (f"\n  from {source}" if source else "")


def _request(error: Exception) -> RequestError:
    for link in _chain(error):
        if isinstance(link, RequestError):
            return link
        if isinstance(link, yaml.MarkedYAMLError):
            return _no_yaml(link)
        if isinstance(link, UnicodeDecodeError):
            return RequestError(
                f"a config file is no text in UTF-8 ({link.reason}); save it as such{_first_not_utf8()}"
            )
        if isinstance(link, RecursionError):
            return RequestError("an interpolation leads back to itself")
    inner = error.__cause__ or error.__context__
    wrapped = isinstance(error, ConfigCompositionException) and isinstance(inner, OmegaConfBaseException)
    cause = _explained(inner, str(error)) if wrapped and inner else None
    return cause or _explained(error, str(error)) or RequestError(first_line(error))


def _first_not_utf8() -> str:
    """Which file it is; the parser does not say."""
    for path in sorted(project_folder().rglob("*.yaml")):
        try:
            path.read_text("utf-8")
        except UnicodeDecodeError:
            return f": {path}"
    return ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and what led to it; OmegaConf hides the context, in which the cause may be."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__


def _explained(error: BaseException, outer: str) -> RequestError | None:
    message = first_line(error)
    if isinstance(error, OverrideParseException):
        hint = "a value with a space, comma or bracket is quoted: 'key=\"…\"'; several values have no space between"
        return RequestError(f"the override {error.override!r} cannot be read; write key=value; {hint}")
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        inner = group.rpartition("/")[2]
        if group != inner and inner in GROUPS:
            outer = group.rpartition("/")[0]
            return RequestError(
                f"conf/{outer}/…: its defaults choose {inner}: {option} inside of {outer}; write "
                f"`- override /{inner}: {option}`"
            )
        # The base of a group's options, which is one itself for the trainer only.
        options = [name for name in error.options or [] if name != "default" or group == "trainer"]
        return RequestError(f"{group}={option}: there is no such option; {nearest(option, options)}")
    if isinstance(error, ConfigTypeError) and "ListConfig" in str(error) and "merge" in str(error):
        return _list_over_mapping(error, outer)
    if isinstance(error, InterpolationToMissingValueError | MissingMandatoryValue):
        key = str(getattr(error, "full_key", None) or "")
        missing = re.search(r"Missing mandatory value: ([\w.]+)", str(error))
        if isinstance(error, InterpolationToMissingValueError) and missing:
            key = missing[1]
        return RequestError(f"{key} is ???: it must be set, as in {key}=…", key)
    if isinstance(error, InterpolationKeyError):
        unknown = re.sub(r".*'(.*)'.*", r"\1", message)
        close = _nearest_anywhere(unknown, error.parent_node)
        hint = f"; did you mean {close}?" if close else ""
        key = str(error.full_key)
        return RequestError(f"{key} is {error.child_node}, but there is no key {unknown}{hint}", key)
    if isinstance(error, ConfigIndexError):
        return RequestError(f"{error.full_key}: the list has {len(error.parent_node)} items, numbered from 0")
    if isinstance(error, ConfigKeyError) or type(error).__name__ == "ConfigAttributeError":
        key = str(getattr(error, "full_key", ""))
        if "." not in key and (close := _nearest_anywhere(key, getattr(error, "parent_node", None))):
            return RequestError(f"{key}: there is no such key; did you mean {close}?")
        known = list(getattr(error, "parent_node", None) or [])
        hint = nearest(str(getattr(error, "key", "")), [name for name in known if name not in ("hydra", "_target_")])
        plus = f"\n  a key that no file states is added with a plus: +{key}=…"
        if key.startswith("hydra.sweeper."):
            plus = "\n  a search takes hydra/sweeper=optuna"
        return RequestError(
            f"{key}: there is no such key; {hint}{'' if key.startswith(('sweep.', 'hydra.launcher.')) else plus}"
        )
    if isinstance(error, ConfigCompositionException):
        unmatched = re.search(r"Could not override '([\w/@.]+)'", str(error))
        if unmatched:
            place = re.search(r"In '([^']+)'", str(error))
            path, group = place and find_config(place[1]), re.sub(r"@.*|.*/", "", unmatched[1])
            hint = nearest(group, GROUPS)
            if group in GROUPS:
                hint = f"write `- override /{group}: …`, and `# @package _global_` as the first line of the file"
            return RequestError(f"{path or 'defaults'}: there is no group {unmatched[1]!r} to override; {hint}")
        ambiguous = re.match(r"Ambiguous value for argument '(.*)'", message)
        if ambiguous:
            key, _, values = ambiguous[1].partition("=")
            return RequestError(
                f"{ambiguous[1]}: several values are a sweep, which takes -m; a list is {key}=[{values}]"
            )
        return RequestError(message)
    if type(error) is ValueError and "defaults must be a list" in message:
        path = find_config(re.sub(r".*'(.*)'.*", r"\1", message))
        return RequestError(
            f"{path}: `defaults` takes a list; write a dash before each, as in `- override /network: cnn`"
        )
    if isinstance(error, OmegaConfBaseException):
        key = str(getattr(error, "full_key", None) or "")
        return RequestError(f"{key}: {message}" if key else message, key or None)
    return None


def _no_yaml(error: yaml.MarkedYAMLError) -> RequestError:
    """The file, the place and the line at which the parser gave up, which may be one after the mistake."""
    mark, problem = error.problem_mark or error.context_mark, error.problem or error.context
    if mark is None:
        return RequestError(f"a config file is no YAML: {problem}")
    path = Path(mark.name)
    lines = path.read_text().splitlines() if path.is_file() else []
    line = lines[mark.line] if mark.line < len(lines) else ""
    hint = "check the dashes, colons and indentation of this line and the one above"
    if str(problem).startswith("expected <block end>"):
        hint = "lines with a dash (a list) and lines without (a mapping) cannot be mixed on one level"
    if re.search(r"[\[{,]\s*\$\{", line):
        hint = 'within brackets an interpolation is quoted: "${…}"'
    where = f"{path}, line {mark.line + 1}, column {mark.column + 1}"
    return RequestError(f"{where}: this is no YAML: {problem}\n  {line.strip()}\n  {hint}")


def _keys(node: Any) -> Iterator[str]:
    """Every dotted key of the config that a node is in."""
    mappings = [("", node._get_root())] if isinstance(node, Node) else []
    for prefix, mapping in mappings:
        for name in mapping:
            child = mapping._get_node(name)
            yield f"{prefix}{name}"
            if isinstance(child, DictConfig) and name != "hydra":
                mappings.append((f"{prefix}{name}.", child))


def _nearest_anywhere(name: str, node: Any) -> str | None:
    """The full key that is nearest to `name` in the config that a node is in: a neighbour, or for a bare name any."""
    place = name.rpartition(".")[0]
    ends = {key.rpartition(".")[2]: key for key in _keys(node) if place in ("", key.rpartition(".")[0])}
    close = get_close_matches(name.rpartition(".")[2], ends, n=1, cutoff=0.7)
    return ends[close[0]] if close else None


def _list_over_mapping(error: ConfigTypeError, outer: str) -> RequestError:
    """Hydra cannot lay a list over a mapping. In a file it does not say where; the file and what it met do."""
    key, place = str(error.full_key or ""), re.search(r"In '([^']+)'", outer)
    path = place and find_config(place[1])
    if path:
        base = OmegaConf.to_container(error.parent_node, resolve=False) if error.parent_node is not None else {}
        key = next(_clashes(read_raw(path), base), key)
    if not key:
        # A whole file is a list, which nothing can be laid over.
        files = [file for group in GROUPS for file in sorted((project_folder() / group).glob("*.yaml"))]
        lists = [str(file) for file in files if isinstance(read_raw(file), list)]
        return RequestError(f"{' and '.join(lists) or 'a config file'} holds a list, where keys are expected")
    where = f"{path}: " if path else ""
    advice = "write a mapping there too"
    if key.endswith("layers"):
        advice = (
            "a mapping merges with a mapping only; start from a network whose layers are a list, as network=linear, "
            "or put the list into a file of its own, conf/network/NAME.yaml"
        )
    return RequestError(f"{where}{key} is a mapping of names, and a list cannot be laid over it;\n  {advice}")


def _clashes(over: Any, base: Any, key: str = "") -> Iterator[str]:
    if isinstance(over, list) and isinstance(base, dict):
        yield key
    elif isinstance(over, dict) and isinstance(base, dict):
        for name, value in over.items():
            yield from _clashes(value, base.get(name), f"{key}.{name}".lstrip("."))
