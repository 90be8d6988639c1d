"""The command line becomes composed configs, one a job; what Hydra refuses is said in plain words.

Nothing here imports torch, so that `lamella train --cfg job` answers within a second.
"""

import functools
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
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

from lamella import conf
from lamella.errors import RequestError, first_line, nearest
from lamella.record import claim, slug

OUTPUTS = Path("outputs")
GROUPS = ("data", "network", "loss", "optimizer", "scheduler", "device", "trainer")


@dataclass(frozen=True)
class Job:
    """One composed config, resolved to plain values.

    text: the same as YAML. overrides: what the command line set. sweep: the sweep's directory, None for a single
    run. references: the keys that something interpolates; a key that nothing reads is a typo.
    """

    config: dict[str, Any]
    text: str
    overrides: list[str]
    sweep: Path | None
    number: int
    references: frozenset[str]


def run(task: Callable[[Job], int], arguments: list[str]) -> int:
    """Compose `conf/` with the overrides in `arguments` and call `task` with each job; returns the exit status."""
    statuses = [0]
    command_line, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")

    def one(cfg: DictConfig) -> None:
        # Lightning starts further processes with this command line, and they read this variable.
        sys.argv = command_line
        _set("HYDRA_FULL_ERROR", full_error)
        overrides, choices = list(HydraConfig.get().overrides.task), dict(HydraConfig.get().runtime.choices)
        try:
            statuses.append(task(_job(cfg, overrides)))
        except Exception as error:
            if full_error == "1":
                raise
            statuses.append(report(error, overrides, choices))

    # argparse, which Hydra uses, takes no override after -m that others stand before.
    arguments = sorted(arguments, key=lambda argument: argument not in ("-m", "--multirun"))
    _resolvers(arguments)
    sys.path.insert(0, os.getcwd())
    sys.argv = ["lamella train", *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise its errors, where it would print them
    try:
        hydra.main(version_base="1.3", config_path=str(conf.OWN), config_name="config")(one)()
    except Exception as error:
        if full_error == "1":
            raise
        return report(error, [argument for argument in arguments if not argument.startswith("-")], {})
    finally:
        sys.argv = command_line
        _set("HYDRA_FULL_ERROR", full_error)
    return max(statuses)


def report(error: Exception, overrides: list[str], choices: dict[str, Any]) -> int:
    """Print one `error: …` block and return the exit status; a traceback is left for what nobody foresaw."""
    refusal = explain(error)
    if refusal is None:
        raise error
    source = refusal.key and conf.origin(refusal.key, overrides, choices)
    print(f"error: {refusal}" + (f"\n  from {source}" if source else ""), file=sys.stderr)
    return 2


def _job(cfg: DictConfig, overrides: list[str]) -> Job:
    for group in GROUPS:
        if not isinstance(cfg.get(group), DictConfig):
            choice = HydraConfig.get().runtime.choices.get(group)
            raise RequestError(f"{group}={choice}: conf/{group}/{choice}.yaml holds no keys", group)
    written = OmegaConf.to_yaml(cfg)
    config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(config, dict)
    sweep = Path(HydraConfig.get().sweep.dir) if HydraConfig.get().mode == RunMode.MULTIRUN else None
    number = int(HydraConfig.get().job.num) if sweep else 0
    references = frozenset(re.sub(r"\[.*", "", name) for name in re.findall(r"\$\{(?:\w+:)?([\w.\[\]-]+)", written))
    resolved = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    return Job({str(key): value for key, value in config.items()}, resolved, overrides, sweep, number, references)


def _resolvers(arguments: list[str]) -> None:
    """What Lamella's own configs interpolate."""

    def class_folders(root: str) -> list[str]:
        from lamella.data.sources import class_folders

        return class_folders(root)

    @functools.cache  # one directory a sweep, however often Hydra asks
    def sweep_dir(name: str) -> str:
        return str(claim(OUTPUTS / name, slug([a for a in arguments if not a.startswith("-")])))

    OmegaConf.register_new_resolver("length", len, replace=True)
    OmegaConf.register_new_resolver("class_folders", class_folders, replace=True)
    OmegaConf.register_new_resolver("sweep_dir", sweep_dir, replace=True)


def explain(error: BaseException) -> RequestError | None:
    """The refusal that an exception of Hydra, OmegaConf or YAML amounts to; None for any other."""
    for link in _chain(error):
        if isinstance(link, RequestError):
            return link
        if isinstance(link, yaml.MarkedYAMLError):
            return _no_yaml(link)
    inner = error.__cause__ or error.__context__
    wrapped = isinstance(error, ConfigCompositionException) and isinstance(inner, OmegaConfBaseException)
    cause = _explained(inner, str(error)) if wrapped and inner else None
    return cause or _explained(error, str(error))


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
        return RequestError(f"{group}={option}: there is no such option; {nearest(option, error.options or [])}")
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
        ends = {key.rpartition(".")[2]: key for key in _keys(error.parent_node)}
        close = get_close_matches(unknown.rpartition(".")[2], ends, n=1)
        hint = f"; did you mean {ends[close[0]]}?" if close else ""
        key = str(error.full_key)
        return RequestError(f"{key} is {error.child_node}, but there is no key {unknown}{hint}", key)
    if isinstance(error, ConfigIndexError):
        return RequestError(f"{error.full_key}: the list has {len(error.parent_node)} items, numbered from 0")
    if isinstance(error, ConfigKeyError) or type(error).__name__ == "ConfigAttributeError":
        key = str(getattr(error, "full_key", ""))
        known = list(getattr(error, "parent_node", None) or [])
        hint = nearest(str(getattr(error, "key", "")), [name for name in known if name not in ("hydra", "_target_")])
        return RequestError(
            f"{key}: there is no such key; {hint}\n  a key that no file states is added with a plus: +{key}=…"
        )
    if isinstance(error, ConfigCompositionException):
        unmatched = re.search(r"Could not override '([\w/@.]+)'. No match", str(error))
        if unmatched:
            place = re.search(r"In '([^']+)'", str(error))
            path = place and conf.find(place[1])
            return RequestError(
                f"{path or 'defaults'}: there is no group {unmatched[1]!r}; {nearest(unmatched[1], GROUPS)}"
            )
        return RequestError(message)
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


def _list_over_mapping(error: ConfigTypeError, outer: str) -> RequestError:
    """Hydra cannot lay a list over a mapping. In a file it does not say where; the file and what it met do."""
    key, place = str(error.full_key or ""), re.search(r"In '([^']+)'", outer)
    path = place and conf.find(place[1])
    if path:
        base = OmegaConf.to_container(error.parent_node, resolve=False) if error.parent_node is not None else {}
        key = next(_clashes(conf.raw(path), base), key)
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


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
