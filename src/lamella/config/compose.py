"""The command line becomes composed configs, one a job.

Nothing here imports torch, so that `lamella train --cfg job` answers within a second.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lamella.config.composed import ComposedConfig, resolve_config
from lamella.config.diagnostics import error_block
from lamella.config.files import GROUPS, SHIPPED, composing_from, project_folder, read_raw
from lamella.config.guard import guarded, require_checked
from lamella.errors import RequestError

# Hydra's options that print something and run nothing, and those that are written with an equals sign.
PRINTING = {"-c", "--cfg", "-h", "--help", "--hydra-help", "-i", "--info", "--version"}
HYDRA_OPTIONS = ("cfg", "c", "info", "i", "package", "p", "config-path", "cp", "config-name", "cn", "config-dir", "cd")


def compose_and_call(task: Callable[[ComposedConfig], int], arguments: list[str], project: Path | None = None) -> int:
    """Compose the configs with the overrides in `arguments` and call `task` with the job; returns the exit status.

    With -m the sweeper that the config names does what it does with the jobs, and `task` is not called. project: the
    folder that comes before Lamella's own configs.
    """
    # argparse, which Hydra uses, takes no override after -m that others stand before.
    arguments = sorted(arguments, key=lambda argument: argument not in ("-m", "--multirun"))
    options = {argument.partition("=")[0] for argument in arguments if argument.startswith("-")}
    for wrong in filter(None, (_hidden(), *map(_misread, arguments))):
        print(f"error: {wrong}", file=sys.stderr)
        return 2
    _resolvers()
    multirun = any(option == "-m" or (option[:4] == "--mu" and "--multirun".startswith(option)) for option in options)
    stray = [argument for argument in arguments if argument.startswith("sweep.")]
    if stray and not (multirun or "hydra.mode=MULTIRUN" in arguments or options & PRINTING):
        print(f"error: {stray[0]}: this is for a sweep, which takes -m", file=sys.stderr)
        return 2
    with composing_from(project or project_folder()):
        return _composed(task, arguments)


def compose_one(overrides: list[str]) -> ComposedConfig:
    """The one job that `overrides` compose. Raises SystemExit where they cannot be composed, which is then said."""
    jobs: list[ComposedConfig] = []

    def keep(job: ComposedConfig) -> int:
        jobs.append(job)
        return 0

    status = compose_and_call(keep, overrides)
    if status:
        raise SystemExit(status)
    return jobs[0]


def _hidden() -> str | None:
    """What is wrong with a primary config of the project's own, which takes the place of Lamella's."""
    path = project_folder() / "config.yaml"
    if not path.is_file():
        return None
    written = read_raw(path)
    if written is None and path.read_bytes().strip():
        return None  # no YAML, which is reported with its line
    items = written.get("defaults") if isinstance(written, dict) else None
    defaults = [key for item in (items if isinstance(items, list) else []) if isinstance(item, dict) for key in item]
    missing = [key for key in (*GROUPS, "override hydra/job_logging") if key not in defaults]
    if not missing:
        return None
    return (
        f"{path} takes the place of Lamella's own, and its defaults lack `{missing[0]}`;\n"
        f"  put what differs into conf/experiment/NAME.yaml, or start from the whole of {SHIPPED}/config.yaml"
    )


def _misread(argument: str) -> str | None:
    """What is wrong with an argument that argparse or Hydra would misread."""
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


def _composed(task: Callable[[ComposedConfig], int], arguments: list[str]) -> int:
    """Call `task` with the job that Hydra composes; returns its status."""
    statuses, unforeseen = [0], list[Exception]()
    command_line, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")

    def one(cfg: DictConfig) -> None:
        # Lightning starts further processes with this command line, and they read this variable.
        sys.argv = command_line
        _set("HYDRA_FULL_ERROR", full_error)
        running = HydraConfig.get()
        # As they were written: an override may hold an interpolation.
        overrides: Any = OmegaConf.to_container(running.overrides.task, resolve=False)
        choices = dict(running.runtime.choices)
        try:
            require_checked(GlobalHydra.instance().config_loader())
            composed = resolve_config(cfg, overrides, choices)
        except Exception as error:
            wrong: Exception = error
        else:
            try:
                statuses.append(task(composed))
                return
            except RequestError as error:
                wrong = error
            except Exception as error:
                unforeseen.append(error)
                raise
        if full_error == "1":
            raise wrong
        statuses.append(2)
        print(error_block(wrong, overrides, choices), file=sys.stderr)

    sys.argv = ["lamella train", *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise its errors, where it would print them
    try:
        with guarded():
            hydra.main(version_base="1.3", config_path=str(SHIPPED), config_name="config")(one)()
    except Exception as error:
        if full_error == "1" or error in unforeseen:
            raise
        print(error_block(error, [argument for argument in arguments if not argument.startswith("-")]), file=sys.stderr)
        return 2
    finally:
        sys.argv = command_line
        _set("HYDRA_FULL_ERROR", full_error)
    return max(statuses)


def _resolvers() -> None:
    """What Lamella's own configs interpolate."""

    def class_folders(root: str) -> list[str]:
        from lamella.data import sources

        return sources.class_folders(root)

    OmegaConf.register_new_resolver("length", len, replace=True)
    OmegaConf.register_new_resolver("class_folders", class_folders, replace=True)


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
