"""What a config may not set: what would make Hydra call, import or read something before it can be checked."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra._internal import hydra as hydra_main
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig, OmegaConf

from lamella.config.launcher import check_launcher_target, check_plain_values
from lamella.config.project import allowed_variables
from lamella.errors import RequestError, nearest

LOADER = "ConfigLoaderImpl"
# Those that plan a sweep before its first job starts.
SWEEPERS = ("hydra_plugins.lamella_sweep.Grid", "hydra_plugins.lamella_sweep.Optuna")
QUIET = {"version": 1, "root": None, "disable_existing_loggers": False}
# Hydra calls what stands in the first three, and sets, makes or reads what stands in the others.
FIXED: dict[str, Any] = {
    "callbacks": {},
    "job_logging": QUIET,
    "hydra_logging": QUIET,
    "job.env_set": {},
    "run.dir": ".",
    "sweep.dir": ".",
    "sweep.subdir": ".",
    "output_subdir": None,
}


@contextmanager
def guarded() -> Iterator[None]:
    """Within it, a config that sets what it may not is a RequestError before Hydra acts on it."""
    OmegaConf.register_new_resolver("oc.env", _variable, replace=True)
    loader = getattr(hydra_main, LOADER)
    # Hydra composes and acts in one call, and has no public place in between.
    setattr(hydra_main, LOADER, _Loader)
    try:
        yield
    finally:
        setattr(hydra_main, LOADER, loader)


class _Loader(ConfigLoaderImpl):
    def _process_config_searchpath(self, config_name: Any, parsed_overrides: Any, repo: Any) -> None:
        loaded = repo.load_config(config_path=config_name) if config_name else None
        primary = loaded.config if loaded and OmegaConf.is_dict(loaded.config) else {}
        given = any(override.get_key_element() == "hydra.searchpath" for override in parsed_overrides)
        if given or OmegaConf.select(OmegaConf.create(primary), "hydra.searchpath"):
            raise RequestError(
                "hydra.searchpath: configs come from conf/ and from Lamella; another folder is --config-dir DIR"
            )
        super()._process_config_searchpath(config_name, parsed_overrides, repo)

    def load_configuration(self, *given: Any, **more: Any) -> DictConfig:
        config = super().load_configuration(*given, **more)
        hydra: Any = OmegaConf.to_container(config.hydra)  # unresolved: that alone could call something
        for key, fixed in FIXED.items():
            node = hydra
            for part in key.split("."):
                node = node[part]
            if node != fixed:
                raise RequestError(f"hydra.{key} cannot be set: Lamella keeps it at {fixed!r}", f"hydra.{key}")
        sweeper = (hydra["sweeper"] or {}).get("_target_")
        if sweeper not in SWEEPERS:
            raise RequestError(
                f"hydra.sweeper is {sweeper}; a sweep is made by hydra/sweeper=grid or hydra/sweeper=optuna",
                "hydra.sweeper",
            )
        check_launcher_target(hydra["launcher"] or {})
        check_plain_values(hydra["sweeper"], "sweeper")
        return config


def _variable(name: str, default: Any = None) -> Any:
    """What `${oc.env:NAME}` gives: what is read here stands in the record of every run."""
    allowed = allowed_variables()
    if name not in allowed:
        raise RequestError(
            f"oc.env:{name}: a config reads the environment variables that pyproject.toml names; "
            f'{nearest(name, allowed)}\n  [tool.lamella]\n  environment = ["{name}"]'
        )
    if name in os.environ:
        return os.environ[name]
    if default is None:
        raise RequestError(f"oc.env:{name}: this environment variable is not set")
    return default
