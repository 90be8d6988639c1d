"""Configs that Hydra has composed, as plain values."""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from lamella.config.files import GROUPS, find_config
from lamella.config.guard import require_checked
from lamella.config.hydra_internals import apply_overrides, can_apply_overrides
from lamella.config.values import walk
from lamella.errors import RequestError


@dataclass(frozen=True)
class ComposedConfig:
    """One composed config, resolved to plain values.

    overrides: what the command line set. references: the keys that something interpolates; a key that nothing reads
    is a typo. reads: the keys whose whole value is another one's, by the key of that one. choices: the option of each
    group.
    """

    config: dict[str, Any]
    overrides: list[str]
    references: frozenset[str]
    reads: dict[str, str]
    choices: dict[str, str]


class SweepComposer:
    """The jobs of a sweep, composed; those that differ in plain values alone share what Hydra takes long for.

    loader, config: Hydra's, as a sweeper gets them.
    """

    def __init__(self, loader: ConfigLoader, config: DictConfig) -> None:
        self.loader, self.config = loader, config
        self.parser = OverridesParser.create(config_loader=loader)
        self.bases: dict[tuple[str, ...], tuple[DictConfig, DictConfig]] = {}

    def job(self, overrides: Sequence[str]) -> ComposedConfig:
        """One of them. Raises as `job` and Hydra do."""
        plain = []
        if can_apply_overrides():
            plain = [text for text in overrides if re.match(r"(\w+(\.\w+)+|seed|monitor)=", text)]
        rest = tuple(text for text in overrides if text not in plain)
        if rest not in self.bases:
            cfg = self.loader.load_sweep_config(self.config, list(rest))
            require_checked(self.loader)
            own = copy.deepcopy(cfg)
            with read_write(own), open_dict(own):
                del own["hydra"]
            self.bases[rest] = cfg, own
        cfg, own = self.bases[rest]
        HydraConfig.instance().set_config(cfg)
        own = copy.deepcopy(own)
        apply_overrides(self.parser.parse_overrides(plain), own)
        return resolve_config(own, list(overrides), dict(cfg.hydra.runtime.choices))


def resolve_config(cfg: DictConfig, overrides: list[str], choices: dict[str, Any]) -> ComposedConfig:
    """A config that Hydra has composed, as plain values. Raises RequestError, and what OmegaConf raises."""
    for group in GROUPS:
        node, choice = cfg.get(group), choices.get(group)
        if not isinstance(node, DictConfig):
            path = find_config(f"{group}/{choice}")
            given = f"{group} is {node!r}" if isinstance(node, str) else f"{group}={choice}: {path} holds no keys"
            raise RequestError(
                f"{given}; an option is chosen with `{group}=OPTION`, and in an experiment with\n"
                f"  `- override /{group}: OPTION` in its list of defaults",
                group,
            )
    written = OmegaConf.to_yaml(cfg)
    config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(config, dict)
    if HydraConfig.get().job.chdir:
        raise RequestError(
            "hydra.job.chdir is true; run directories are made below the working directory, leave it out"
        )
    # A network's file reads its own scalars, also where the layers that do so are overridden.
    path = find_config(f"network/{choices.get('network')}")
    texts = [written, path.read_text()] if path else [written]
    found = [name for text in texts for name in re.findall(r"\$\{(?:\w+:)?([\w.\[\]-]+)", text)]
    references = frozenset(re.sub(r"\[.*", "", name) for name in found)
    chosen = {group: str(choices[group]) for group in (*GROUPS, "experiment") if choices.get(group)}
    plain = {str(key): value for key, value in config.items() if key != "sweep"}
    unresolved = walk(OmegaConf.to_container(cfg))
    matched = ((key, re.fullmatch(r"\$\{(\w[\w.]*)\}", value)) for key, value in unresolved if isinstance(value, str))
    reads = {key: read[1] for key, read in matched if read}
    return ComposedConfig(plain, overrides, references, reads, chosen)
