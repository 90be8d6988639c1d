"""Functions that compose configs from the command line, one for each job.

This file imports no torch, so that `lamella train --cfg job` answers within a second.
"""

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import hydra
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lamella.config.arguments import CommandLine
from lamella.config.composed import ComposedConfig, check_composed, resolve_config
from lamella.config.diagnostics import explained_error
from lamella.config.files import GROUPS, OPTIONAL, SHIPPED, composing_from, project_folder, read_raw
from lamella.config.guard import guarded, require_checked
from lamella.config.origins import composed_files
from lamella.errors import RequestError


def compose_and_call(task: Callable[[ComposedConfig], int], arguments: list[str], project: Path | None = None) -> int:
    """Compose the config with the overrides in `arguments`, call `task` with it, and return the exit status.

    With -m the sweeper that the config names runs the jobs, and `task` is not called. project: the folder whose
    configs come before Lamella's own; None means `conf/` in the working directory. Raises RequestError for a request
    that is wrong, with the file or override that the blamed value comes from.
    """
    with composing_from(project or project_folder()):
        _check_primary_config()
        command_line = CommandLine.of(arguments)
        # Hydra prints a config without calling the task, so that the config is checked before.
        status = _run_hydra(task, command_line.checking, check_only=True) if command_line.prints_config else 0
        return status or _run_hydra(task, command_line.arguments)


def compose_one(overrides: list[str]) -> ComposedConfig:
    """Return the job that `overrides` compose. Raises RequestError."""
    jobs: list[ComposedConfig] = []

    def keep(job: ComposedConfig) -> int:
        jobs.append(job)
        return 0

    compose_and_call(keep, overrides)
    return jobs[0]


def _check_primary_config() -> None:
    """Raise RequestError if the project has a `config.yaml` of its own that lacks one of Lamella's groups."""
    path = project_folder() / "config.yaml"
    if not path.is_file():
        return
    written = read_raw(path)
    if written is None and path.read_bytes().strip():
        return  # this is no YAML, which composing reports with its line
    items = written.get("defaults") if isinstance(written, dict) else None
    defaults = [key for item in (items if isinstance(items, list) else []) if isinstance(item, dict) for key in item]
    missing = [key for key in (*GROUPS, "override hydra/job_logging") if key not in (*defaults, *OPTIONAL)]
    if missing:
        raise RequestError(
            f"{path} takes the place of Lamella's own, and its defaults lack `{missing[0]}`;\n"
            f"  put what differs into conf/experiment/NAME.yaml, or start from the whole of {SHIPPED}/config.yaml"
        )


def _run_hydra(task: Callable[[ComposedConfig], int], arguments: list[str], check_only: bool = False) -> int:
    """Let Hydra compose the config, and its sweeper run the jobs if there are several; return the exit status.

    check_only: do not call the task, and accept values that are still missing. Raises RequestError, and what `task`
    raises. With HYDRA_FULL_ERROR=1, exceptions of Hydra and OmegaConf are raised as they are.
    """
    call = _TaskCall(task, check_only)
    sys.argv = ["lamella train", *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # lets Hydra raise its errors instead of printing them
    try:
        with guarded():
            hydra.main(version_base="1.3", config_path=str(SHIPPED), config_name="config")(call.run)()
    except Exception as error:
        if call.full_error == "1":
            raise
        raise explained_error(error, [argument for argument in arguments if not argument.startswith("-")]) from None
    finally:
        call.restore_process()
    if call.error:
        raise call.error
    return call.status


class _TaskCall:
    """Calls a task for Hydra, and keeps what became of the call.

    `status` is the exit status. `error` is what composing or the task raised: Hydra would print it and end the program.
    """

    def __init__(self, task: Callable[[ComposedConfig], int], check_only: bool) -> None:
        self.task, self.check_only, self.status = task, check_only, 0
        self.error: Exception | None = None
        self.command_line, self.full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")

    def restore_process(self) -> None:
        """Restore the command line and the variable HYDRA_FULL_ERROR, which composing has changed."""
        sys.argv = self.command_line
        if self.full_error is None:
            os.environ.pop("HYDRA_FULL_ERROR", None)
        else:
            os.environ["HYDRA_FULL_ERROR"] = self.full_error

    def run(self, cfg: DictConfig) -> None:
        """Resolve the config that Hydra has composed, and call the task with it."""
        self.restore_process()  # Lightning starts the processes of other ranks with this command line
        running, loader = HydraConfig.get(), GlobalHydra.instance().config_loader()
        # Interpolations in overrides are kept as they were written.
        overrides = OmegaConf.to_container(running.overrides.task, resolve=False)
        assert isinstance(overrides, list)
        try:
            require_checked(loader)
            if self.check_only:
                check_composed(cfg, dict(running.runtime.choices))
                return
            composed = resolve_config(cfg, overrides, dict(running.runtime.choices))
        except Exception as error:
            self.error = self._explained(error, overrides, loader)
            return
        try:
            self.status = self.task(composed)
        except RequestError as error:
            self.error = self._explained(error, overrides, loader)
        except Exception as error:
            self.error = error

    def _explained(self, error: Exception, overrides: list[str], loader: ConfigLoader) -> Exception:
        """Return the error that explains an exception, or the exception itself if HYDRA_FULL_ERROR is 1."""
        if self.full_error == "1":
            return error
        return explained_error(error, overrides, partial(composed_files, loader, overrides))
