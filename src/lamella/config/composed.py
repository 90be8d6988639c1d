"""Configs that Hydra has composed, resolved to plain values."""

import copy
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from lamella.config.checks import check_known
from lamella.config.files import GROUPS, LISTS, SHIPPED, find_config, project_folder, read_config
from lamella.config.grammar import parse_overrides
from lamella.config.guard import require_checked
from lamella.config.hydra_internals import can_merge_overrides, merge_overrides
from lamella.config.interpolations import READ, check_interpolations, interpolated_keys
from lamella.config.origins import ConfigFile, composed_files
from lamella.config.values import Config, key_of
from lamella.config.yaml_files import load_yaml
from lamella.errors import RequestError

NAMED_BY_CLASS = ("loss", "optimizer", "scheduler")  # the groups whose options each stand for a class


@dataclass(frozen=True)
class ComposedConfig:
    """A composed config, resolved to plain values.

    overrides: the overrides of the command line. references: the keys that an interpolation reads; an unknown key that
    is not among them is a typing error. reads: maps each key whose whole value is one interpolation to the key that it
    interpolates. choices: the chosen option of each group. written: the keys and groups that an override or an
    experiment sets, and that no interpolation of another group reads.
    """

    config: Config
    overrides: list[str]
    references: frozenset[str]
    reads: dict[str, str]
    choices: dict[str, str]
    written: list[str]


class SweepComposer:
    """Composes the jobs of a sweep. Jobs that differ only in plain values share the slow part of composing.

    loader, config: the config loader and the composed config that Hydra gives to a sweeper.
    """

    def __init__(self, loader: ConfigLoader, config: DictConfig) -> None:
        self.loader, self.config = loader, config
        self.parser = OverridesParser.create(config_loader=loader)
        # For each set of overrides that choose options: the whole config, and the part without Hydra's own.
        self.bases: dict[tuple[str, ...], tuple[DictConfig, DictConfig]] = {}
        self.composed_from: dict[tuple[str, ...], list[ConfigFile]] = {}

    def job(self, overrides: Sequence[str]) -> ComposedConfig:
        """Return one job, composed. Raises what `resolve_config` and Hydra raise."""
        plain, rest = self._parted(overrides)
        if rest not in self.bases:
            self.bases[rest] = self._compose(list(rest))
        config, base = self.bases[rest]
        HydraConfig.instance().set_config(config)
        job = copy.deepcopy(base)
        if plain:
            merge_overrides(self.parser.parse_overrides(plain), job)
        return resolve_config(job, list(overrides), dict(config.hydra.runtime.choices))

    def check_constants(self, arguments: Sequence[str]) -> None:
        """Raise RequestError for an override of a sweep that has one value, and a wrong one, before torch is imported.

        One job is composed for that. The planner reports every other error, with the jobs that it is in.
        """
        overrides = parse_overrides(arguments, several=True, loader=self.loader)
        constants = [override for override in overrides if not override.is_sweep_override()]
        swept = [override for override in overrides if override.is_discrete_sweep()]
        firsts = [(override.get_key_element(), next(iter(override.sweep_string_iterator()), "")) for override in swept]
        try:
            self.job(
                [*(str(override.input_line) for override in constants), *(f"{key}={text}" for key, text in firsts)]
            )
        except RequestError as error:
            if error.key in [override.key_or_group for override in constants]:
                raise
        except Exception:
            return  # the planner reports it

    def files(self, overrides: Sequence[str]) -> list[ConfigFile]:
        """Return the files that a job is composed from, the strongest first, for error messages."""
        _, rest = self._parted(overrides)
        if rest not in self.composed_from:
            self.composed_from[rest] = composed_files(self.loader, rest)
        return self.composed_from[rest]

    def _parted(self, overrides: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
        """Return the overrides that only set plain values, and all others."""
        plain = []
        if can_merge_overrides():
            plain = [text for text in overrides if re.match(r"(\w+(\.\w+)+|seed|monitor)=", text)]
        return plain, tuple(text for text in overrides if text not in plain)

    def _compose(self, overrides: list[str]) -> tuple[DictConfig, DictConfig]:
        """Return the config that Hydra composes with `overrides`, and a copy without the keys below `hydra`."""
        config = self.loader.load_sweep_config(self.config, overrides)
        require_checked(self.loader)
        base = copy.deepcopy(config)
        with read_write(base), open_dict(base):
            del base["hydra"]
        return config, base


def resolve_config(config: DictConfig, overrides: list[str], choices: Mapping[str, object]) -> ComposedConfig:
    """Return a config that Hydra has composed, resolved to plain values.

    choices: the chosen option of each group, as Hydra records it. Raises RequestError, and what OmegaConf raises.
    """
    _check_groups(config, choices)
    _check_targets(config, choices)
    written = _written_values(config)
    resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(resolved, dict)
    if HydraConfig.get().job.chdir:
        raise RequestError(
            "hydra.job.chdir is true; run directories are made below the working directory, leave it out"
        )
    references = _referenced_keys(config, choices)
    plain = {str(key): value for key, value in resolved.items() if key != "sweep"}
    if "_target_" in plain["network"]:  # which is a module, so that the layers of an option's file have no meaning
        unused = [] if "_target_" in _written("network", choices) else _inherited("network", config, choices)
        plain["network"] = {key: value for key, value in plain["network"].items() if key not in unused}
    check_known(plain, references)
    _check_folds(plain["data"], overrides)
    chosen = {group: str(choices[group]) for group in (*GROUPS, "experiment") if choices.get(group)}
    reads = interpolated_keys(written)
    return ComposedConfig(plain, overrides, references, reads, chosen, _set_keys(overrides, choices, reads))


def _set_keys(overrides: Sequence[str], choices: Mapping[str, object], reads: Mapping[str, str]) -> list[str]:
    """Return `ComposedConfig.written`. reads: as there."""
    primary = find_config("config")
    listed = _content(primary, primary.stat().st_mtime_ns).get("defaults") if primary else []
    assert isinstance(listed, list)
    options = {key: option for one in listed if isinstance(one, dict) for key, option in one.items()}
    chosen = [group for group in GROUPS if group not in LISTS and choices.get(group) != options.get(group)]
    keys = [*map(key_of, overrides), *_written("experiment", choices), *chosen]
    foreign = {source for key, source in reads.items() if key.partition(".")[0] != source.partition(".")[0]}
    return [key for key in dict.fromkeys(keys) if key not in foreign]


def _check_folds(data: Config, overrides: Sequence[str]) -> None:
    """Raise RequestError for an override that cross-validation does not read. A file may hold it for other runs."""
    given = set(map(key_of, overrides))
    if data.get("folds") is None and "data.group_duplicates" in given:
        raise RequestError(
            "data.group_duplicates has no effect without data.folds; leave it out", "data.group_duplicates"
        )
    if data.get("folds") is not None and "data.val_size" in given:
        raise RequestError(
            f"data.val_size has no effect with data.folds={data['folds']}, because a fold validates; leave one of them "
            "out",
            "data.val_size",
        )


def check_composed(config: DictConfig, choices: Mapping[str, object]) -> None:
    """Check a composed config that is only printed, and in which values may be missing. Raises RequestError."""
    _check_groups(config, choices)
    _written_values(config)
    plain = {key: value for key, value in _known_values(config).items() if key != "sweep"}
    check_known(plain, _referenced_keys(config, choices))


def _written_values(config: DictConfig) -> dict[str, object]:
    """Return the values of a config with their interpolations. Raises RequestError if these cannot be resolved."""
    values = OmegaConf.to_container(config)
    assert isinstance(values, dict)
    written = {str(key): value for key, value in values.items()}
    check_interpolations(written)
    return written


def _known_values(node: DictConfig) -> dict[str, object]:
    """Return a node as plain values, without those that are missing or read what is missing."""
    known: dict[str, object] = {}
    for key in node:
        with suppress(OmegaConfBaseException):
            value = node[key]
            known[str(key)] = (
                _known_values(value)
                if isinstance(value, DictConfig)
                else OmegaConf.to_container(value)
                if isinstance(value, ListConfig)
                else value
            )
    return known


def _check_groups(config: DictConfig, choices: Mapping[str, object]) -> None:
    """Raise RequestError if a group has no mapping, as after `network: mlp` in an experiment or with an empty file."""
    for group in GROUPS:
        node, choice = config.get(group), choices.get(group)
        if not isinstance(node, DictConfig) and not (node is None and group in LISTS):
            path = find_config(f"{group}/{choice}")
            given = f"{group} is {node!r}" if isinstance(node, str) else f"{group}={choice}: {path} holds no keys"
            option = "[OPTION, …]" if group in LISTS else "OPTION"
            raise RequestError(
                f"{given}; an option is chosen with `{group}={option}`, and in an experiment with\n"
                f"  `- override /{group}: {option}` in its list of defaults",
                group,
            )


def _check_targets(config: DictConfig, choices: Mapping[str, object]) -> None:
    """Raise RequestError for the class of an option over the keys of another option, which hold for another class."""
    for group in NAMED_BY_CLASS:
        written, target = _written(group, choices), config[group].get("_target_")
        if "_target_" not in written or written["_target_"] == target or not set(written) - {"_target_", "defaults"}:
            continue
        paths = sorted(path for folder in (project_folder(), SHIPPED) for path in (folder / group).glob("*.yaml"))
        fitting = [path.stem for path in paths if _content(path, path.stat().st_mtime_ns).get("_target_") == target]
        if fitting:
            raise RequestError(
                f"{group}._target_ is {target}, and the other keys of {group} are those of {group}={choices[group]}; "
                f"write {group}={fitting[0]},\n  and in an experiment `- override /{group}: {fitting[0]}` in its list "
                "of defaults",
                f"{group}._target_",
            )


def _referenced_keys(config: DictConfig, choices: Mapping[str, object]) -> frozenset[str]:
    """Return the keys that interpolations read in a composed config that is not resolved yet."""
    # A network's file reads its own scalars, also if the layers that read them are overridden.
    path = find_config(f"network/{choices.get('network')}")
    texts = [OmegaConf.to_yaml(config), *([read_config(path)] if path else [])]
    inherited = [
        f"{group}.{key}" for group in GROUPS if group not in LISTS for key in _inherited(group, config, choices)
    ]
    found = [name for text in texts for name in READ.findall(text)]
    return frozenset(re.sub(r"\[.*", "", name) for name in [*found, *inherited])


def _inherited(group: str, config: DictConfig, choices: Mapping[str, object]) -> list[str]:
    """Return the keys that an option's file writes for its own target, where the config names another one.

    After `optimizer._target_=mine.Optimizer`, for example, the arguments of Adam need not be read by anything.
    """
    written, node = _written(group, choices), OmegaConf.to_container(config[group])
    assert isinstance(node, dict)
    if written.get("_target_") == node.get("_target_"):
        return []
    return [key for key, value in written.items() if key in node and node[key] == value]


def _written(group: str, choices: Mapping[str, object]) -> dict[str, object]:
    """Return what the file of a group's option writes itself."""
    path = find_config(f"{group}/{choices.get(group)}")
    return _content(path, path.stat().st_mtime_ns) if path else {}


@lru_cache
def _content(path: Path, changed: int) -> dict[str, object]:
    """Return the content of a config file, which is read once for all jobs. changed: when the file was written."""
    written = OmegaConf.to_container(load_yaml(path)[1])
    assert isinstance(written, dict)
    return {str(key): value for key, value in written.items()}
