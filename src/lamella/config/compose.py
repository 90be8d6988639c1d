"""Functions that compose configs from the command line, one for each job.

This file imports no torch, so that `lamella train --cfg job` answers within a second.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lamella.config.composed import ComposedConfig, resolve_config
from lamella.config.diagnostics import error_block
from lamella.config.files import GROUPS, SHIPPED, composing_from, project_folder, read_raw
from lamella.config.guard import guarded, require_checked
from lamella.console import print
from lamella.errors import RequestError

# Hydra's options that print something and run nothing, and its options that may be written with an equals sign.
PRINTING = {"-c", "--cfg", "-h", "--help", "--hydra-help", "-i", "--info", "--version"}
HYDRA_OPTIONS = ("cfg", "c", "info", "i", "package", "p", "config-path", "cp", "config-name", "cn", "config-dir", "cd")


def compose_and_call(task: Callable[[ComposedConfig], int], arguments: list[str], project: Path | None = None) -> int:
    """Compose the config with the overrides in `arguments`, call `task` with it, and return the exit status.

    With -m the sweeper that the config names runs the jobs, and `task` is not called. project: the folder whose
    configs come before Lamella's own; None means `conf/` in the working directory.
    """
    # argparse, which Hydra uses, refuses overrides on both sides of -m.
    arguments = sorted(arguments, key=lambda argument: argument not in ("-m", "--multirun"))
    options = {argument.partition("=")[0] for argument in arguments if argument.startswith("-")}
    for message in filter(None, (_incomplete_primary_config(), *map(_misread_argument, arguments))):
        print(f"error: {message}", file=sys.stderr)
        return 2
    _register_resolvers()
    multirun = any(option == "-m" or (option[:4] == "--mu" and "--multirun".startswith(option)) for option in options)
    stray = [argument for argument in arguments if argument.startswith("sweep.")]
    if stray and not (multirun or "hydra.mode=MULTIRUN" in arguments or options & PRINTING):
        print(f"error: {stray[0]}: this is for a sweep, which takes -m", file=sys.stderr)
        return 2
    with composing_from(project or project_folder()):
        return _run_hydra(task, arguments)


def compose_one(overrides: list[str]) -> ComposedConfig:
    """Return the job that `overrides` compose. Raises SystemExit after printing the error if that fails."""
    jobs: list[ComposedConfig] = []

    def keep(job: ComposedConfig) -> int:
        jobs.append(job)
        return 0

    status = compose_and_call(keep, overrides)
    if status:
        raise SystemExit(status)
    return jobs[0]


def _incomplete_primary_config() -> str | None:
    """Return an error message if the project has a `config.yaml` of its own that lacks one of Lamella's groups."""
    path = project_folder() / "config.yaml"
    if not path.is_file():
        return None
    written = read_raw(path)
    if written is None and path.read_bytes().strip():
        return None  # this is no YAML, which composing reports with its line
    items = written.get("defaults") if isinstance(written, dict) else None
    defaults = [key for item in (items if isinstance(items, list) else []) if isinstance(item, dict) for key in item]
    missing = [key for key in (*GROUPS, "override hydra/job_logging") if key not in defaults]
    if not missing:
        return None
    return (
        f"{path} takes the place of Lamella's own, and its defaults lack `{missing[0]}`;\n"
        f"  put what differs into conf/experiment/NAME.yaml, or start from the whole of {SHIPPED}/config.yaml"
    )


def _misread_argument(argument: str) -> str | None:
    """Return an error message for an argument that argparse or Hydra would misread, and None for any other."""
    if argument[:1] in "–—":
        return (
            f"{argument}: this begins with a dash of the wrong kind; write -{'-' * (len(argument) > 2)}{argument[1:]}"
        )
    name, _, value = argument.partition("=")
    if name.startswith("--e") and "--experimental-rerun".startswith(name):
        return f"{argument}: this would run what a file holds; a recorded run is trained again by `lamella reproduce`"
    key = name.lstrip("-~")
    if name.startswith("-") and value and key not in HYDRA_OPTIONS:
        return f"{argument}: overrides have no dashes; write {key}={value}"
    if key in GROUPS and (name.startswith("~") or (value in ("null", "") and argument != name)):
        return f"{argument}: a run needs every group; write {key}=OPTION (conf/{key}/ holds the options)"
    return None


def _run_hydra(task: Callable[[ComposedConfig], int], arguments: list[str]) -> int:
    """Let Hydra compose the config, and its sweeper run the jobs if there are several; return the exit status.

    Errors in the config are printed. An error that `task` raises and that is no RequestError is raised again.
    """
    call = _TaskCall(task)
    sys.argv = ["lamella train", *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # lets Hydra raise its errors instead of printing them
    try:
        with guarded():
            hydra.main(version_base="1.3", config_path=str(SHIPPED), config_name="config")(call.run)()
    except Exception as error:
        if call.full_error == "1" or error is call.unforeseen:
            raise
        print(error_block(error, [argument for argument in arguments if not argument.startswith("-")]), file=sys.stderr)
        return 2
    finally:
        call.restore_process()
    return call.status


class _TaskCall:
    """Calls a task for Hydra, and keeps what became of the call.

    `status` is the exit status. `unforeseen` is the error that the task raised, if that is no RequestError.
    """

    def __init__(self, task: Callable[[ComposedConfig], int]) -> None:
        self.task, self.status = task, 0
        self.unforeseen: Exception | None = None
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
        running = HydraConfig.get()
        # Interpolations in overrides are kept as they were written.
        overrides = OmegaConf.to_container(running.overrides.task, resolve=False)
        assert isinstance(overrides, list)
        choices = dict(running.runtime.choices)
        try:
            require_checked(GlobalHydra.instance().config_loader())
            composed = resolve_config(cfg, overrides, choices)
        except Exception as error:
            self._refuse(error, overrides, choices)
            return
        try:
            self.status = self.task(composed)
        except RequestError as error:
            self._refuse(error, overrides, choices)
        except Exception as error:
            self.unforeseen = error
            raise

    def _refuse(self, error: Exception, overrides: list[str], choices: dict[str, object]) -> None:
        """Print an error of the config and set the exit status, or raise the error if HYDRA_FULL_ERROR is 1."""
        if self.full_error == "1":
            raise error
        self.status = 2
        print(error_block(error, overrides, choices), file=sys.stderr)


def _register_resolvers() -> None:
    """Register the resolvers that Lamella's own configs use in interpolations."""

    def class_folders(root: str) -> list[str]:
        from lamella.data import sources

        return sources.class_folders(root)

    OmegaConf.register_new_resolver("length", len, replace=True)
    OmegaConf.register_new_resolver("class_folders", class_folders, replace=True)
