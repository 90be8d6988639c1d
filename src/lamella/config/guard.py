"""Checks for the keys below `hydra` in a config, made before Hydra acts on them.

Some of these keys would let a config call functions, import modules, set environment variables or read folders as soon
as Hydra has composed it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, OmegaConf

from lamella.config.csv_classes import csv_classes
from lamella.config.hydra_internals import CheckingConfigLoader, composing_with, unchecked_message
from lamella.config.interpolations import arithmetic
from lamella.config.launcher import check_launcher_target, check_plain_values
from lamella.config.project import allowed_variables
from lamella.errors import RequestError, nearest

# Lamella's own sweepers, which plan a whole sweep before its first job starts.
SWEEPERS = ("hydra_plugins.lamella_sweep.Grid", "hydra_plugins.lamella_sweep.Optuna")
SILENT_LOGGING = {"version": 1, "root": None, "disable_existing_loggers": False}
# Hydra calls what the first three name, sets the environment variables of the fourth, and makes the directories of the
# others.
REQUIRED_VALUES: dict[str, object] = {
    "callbacks": {},
    "job_logging": SILENT_LOGGING,
    "hydra_logging": SILENT_LOGGING,
    "job.env_set": {},
    "run.dir": ".",
    "sweep.dir": ".",
    "sweep.subdir": ".",
    "output_subdir": None,
}


@contextmanager
def guarded() -> Iterator[None]:
    """Let `hydra.main` compose only configs that pass the checks; any other is a RequestError before Hydra acts on it.

    Whoever takes a config from Hydra calls `require_checked`, so that a Hydra that passes the checks by is an error.
    """
    register_resolvers()
    with composing_with(GuardedConfigLoader):
        yield


def register_resolvers() -> None:
    """Register arithmetic and the resolvers of Lamella's own configs, and replace that of environment variables."""

    def class_folders(root: str) -> list[str]:
        from lamella.data import sources

        return sources.class_folders(root)

    def vocabulary_size(tokens: str) -> int:
        from lamella.data import text_encoder

        return text_encoder.vocabulary_size(tokens)

    for name in ("add", "mul", "div"):
        OmegaConf.register_new_resolver(name, partial(arithmetic, name), replace=True)
    OmegaConf.register_new_resolver("length", len, replace=True)
    OmegaConf.register_new_resolver("class_folders", class_folders, replace=True)
    OmegaConf.register_new_resolver("vocabulary_size", vocabulary_size, replace=True)
    OmegaConf.register_new_resolver("csv_classes", csv_classes, replace=True)
    OmegaConf.register_new_resolver("oc.env", _environment_variable, replace=True)


def require_checked(loader: ConfigLoader) -> None:
    """Raise RuntimeError if the latest config of `loader` has not been checked."""
    if not (isinstance(loader, GuardedConfigLoader) and loader.checked):
        raise RuntimeError(unchecked_message())


class GuardedConfigLoader(CheckingConfigLoader):
    """A config loader that refuses configs in which Hydra would call, import or read something."""

    def check_search_path(self, sets_search_path: bool) -> None:
        """Raise RequestError if `hydra.searchpath` is set, because Hydra imports the packages that it names."""
        if sets_search_path:
            raise RequestError(
                "hydra.searchpath: configs come from conf/ and from Lamella; another folder is --config-dir DIR"
            )

    def check_config(self, config: DictConfig) -> None:
        """Raise RequestError if a key below `hydra` differs from what Lamella allows."""
        hydra = OmegaConf.to_container(config.hydra)  # not resolved: resolving alone could call something
        assert isinstance(hydra, dict)
        for key, fixed in REQUIRED_VALUES.items():
            value: object = hydra
            for part in key.split("."):
                assert isinstance(value, dict)
                value = value[part]
            if value != fixed and key.endswith(("dir", "subdir")):
                raise RequestError(
                    f"hydra.{key} cannot be set: runs are stored in outputs/; to store them elsewhere, make that a "
                    "link: ln -s DIRECTORY outputs",
                    f"hydra.{key}",
                )
            if value != fixed:
                raise RequestError(f"hydra.{key} cannot be set: Lamella keeps it at {fixed!r}", f"hydra.{key}")
        sweeper = (hydra["sweeper"] or {}).get("_target_")
        if sweeper not in SWEEPERS:
            raise RequestError(
                f"hydra.sweeper is {sweeper}; a sweep is made by hydra/sweeper=grid or hydra/sweeper=optuna",
                "hydra.sweeper",
            )
        check_launcher_target(hydra["launcher"] or {})
        check_plain_values(hydra["sweeper"], "sweeper")


def _environment_variable(name: str, default: object = None) -> object:
    """Return the value of `${oc.env:NAME}`, which becomes part of every run's record.

    Raises RequestError unless pyproject.toml names the variable, and if the variable is not set and has no default.
    """
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
