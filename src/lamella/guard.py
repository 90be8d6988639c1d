"""What a config may not set: what would make Hydra call, import or read something before it can be checked."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hydra._internal import hydra as hydra_main
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig, OmegaConf

from lamella import project
from lamella.conf import walk
from lamella.errors import RequestError, nearest

LOADER = "ConfigLoaderImpl"
SLURM = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"
# The launchers that run a job within a process of theirs.
INSIDE = {
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher": "basic",
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher": "joblib",
    "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher": "ray",
}
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


# What the Slurm launcher's own config computes.
COMPUTED = ("${hydra.sweep.dir}/.submitit/%j", "${hydra.job.name}")


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
        check_launcher(hydra["launcher"] or {})
        check_plain(hydra["sweeper"], "sweeper")
        return config


def local(node: Mapping[str, Any]) -> bool:
    """Whether a launcher is Lamella's own, which is no class."""
    return "_target_" not in node


def fused(node: Mapping[str, Any]) -> bool:
    """Whether it is the one that trains several jobs as one program."""
    return local(node) and "width" in node


def inside(node: Mapping[str, Any]) -> bool:
    """Whether a launcher runs a job within a process of its own, and not as one of the job's."""
    return node.get("_target_") in INSIDE


def check_launcher(node: Mapping[str, Any]) -> None:
    """Raise RequestError where `node` is none of the launchers that run what a sweep has planned."""
    check_plain(node, "launcher")
    target = node.get("_target_")
    if target is not None and target != SLURM and target not in INSIDE:
        raise RequestError(
            f"hydra.launcher is {target}; a sweep runs with local, slurm, basic, joblib or ray: "
            "hydra/launcher=NAME, where its package is installed",
            "hydra.launcher",
        )


def check_plain(node: Mapping[str, Any], key: str) -> None:
    """Raise RequestError where Hydra would build or compute what stands in a launcher or a sweeper."""
    values = {name: value for name, value in node.items() if name != "_target_"}
    for place, value in walk(values, f"hydra.{key}"):
        if place.endswith("._target_"):
            raise RequestError(f"{place}: a {key} takes values, and builds nothing", place)
        if isinstance(value, str) and value not in COMPUTED and ("${" in value or "\n" in value):
            raise RequestError(f"{place} is {value!r}; a {key} takes plain values", place)


def _variable(name: str, default: Any = None) -> Any:
    """What `${oc.env:NAME}` gives: what is read here stands in the record of every run."""
    allowed = project.environment()
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
