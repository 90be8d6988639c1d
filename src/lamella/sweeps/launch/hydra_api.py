"""Hydra's launchers, given runs that are planned."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.conf import HydraConf
from hydra.core.plugins import Plugins
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from lamella.config.guard import QUIET


class PlannedConfigLoader(ConfigLoaderImpl):
    """What a launcher takes for Hydra's loader: it composes nothing, and hands the run's directory on."""

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        config = copy.deepcopy(master_config)
        config.hydra.overrides.task, config.path = sweep_overrides, sweep_overrides[0]
        return config


def hydra_launcher(node: Mapping[str, Any], directory: Path, task: Callable[[Any], int]) -> Any:
    hydra = OmegaConf.structured(HydraConf)
    hydra.sweep.dir, hydra.sweep.subdir, hydra.output_subdir = str(directory), ".", None
    hydra.hydra_logging, hydra.job_logging = QUIET, QUIET
    hydra.job.name, hydra.job.chdir, hydra.launcher = "lamella", False, dict(node)
    config = OmegaConf.create({"hydra": hydra, "path": None})
    context = HydraContext(config_loader=PlannedConfigLoader(ConfigSearchPathImpl()), callbacks=Callbacks())
    return Plugins.instance().instantiate_launcher(context, task, config)
