"""Create Hydra's launchers for runs whose configs are already composed."""

from collections.abc import Callable
from pathlib import Path

from hydra.conf import HydraConf
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from lamella.config.guard import SILENT_LOGGING
from lamella.config.hydra_internals import launcher_context
from lamella.config.values import Config


def hydra_launcher(node: Config, directory: Path, task: Callable[[DictConfig], int]) -> Launcher:
    """Return the launcher that `node`, the value of `hydra.launcher`, describes.

    The launcher calls `task` for each job with a config whose key `path` is the directory of the run. directory: that
    of the sweep.
    """
    hydra = OmegaConf.structured(HydraConf)
    hydra.sweep.dir, hydra.sweep.subdir, hydra.output_subdir = str(directory), ".", None
    hydra.hydra_logging, hydra.job_logging = SILENT_LOGGING, SILENT_LOGGING
    hydra.job.name, hydra.job.chdir, hydra.launcher = "lamella", False, dict(node)
    config = OmegaConf.create({"hydra": hydra, "path": None})
    return Plugins.instance().instantiate_launcher(launcher_context(), task, config)
