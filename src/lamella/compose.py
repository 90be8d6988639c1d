"""The command line becomes composed configs, one a job.

Nothing here imports torch, so that `lamella train --cfg job` answers within a second.
"""

import copy
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from lamella import conf
from lamella.errors import RequestError
from lamella.explain import refusal
from lamella.guard import guarded

OUTPUTS = Path("outputs")
# Hydra's options that print something and run nothing, and those that are written with an equals sign.
PRINTING = {"-c", "--cfg", "-h", "--help", "--hydra-help", "-i", "--info", "--version"}
HYDRA_OPTIONS = ("cfg", "c", "info", "i", "package", "p", "config-path", "cp", "config-name", "cn", "config-dir", "cd")


@dataclass(frozen=True)
class Job:
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


def run(task: Callable[[Job], int], arguments: list[str], project: Path = conf.PROJECT) -> int:
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
    kept, conf.PROJECT = conf.PROJECT, project
    try:
        return _composed(task, arguments)
    finally:
        conf.PROJECT = kept


def one(overrides: list[str]) -> Job:
    """The one job that `overrides` compose. Raises SystemExit where they cannot be composed, which is then said."""
    jobs: list[Job] = []

    def keep(job: Job) -> int:
        jobs.append(job)
        return 0

    status = run(keep, overrides)
    if status:
        raise SystemExit(status)
    return jobs[0]


class Members:
    """The jobs of a sweep, composed; those that differ in plain values alone share what Hydra takes long for.

    loader, config: Hydra's, as a sweeper gets them.
    """

    def __init__(self, loader: ConfigLoader, config: DictConfig) -> None:
        self.loader, self.config = loader, config
        self.parser = OverridesParser.create(config_loader=loader)
        self.bases: dict[tuple[str, ...], tuple[DictConfig, DictConfig]] = {}

    def job(self, overrides: Sequence[str]) -> Job:
        """One of them. Raises as `job` and Hydra do."""
        plain = [text for text in overrides if re.match(r"(\w+(\.\w+)+|seed|monitor)=", text)]
        rest = tuple(text for text in overrides if text not in plain)
        if rest not in self.bases:
            cfg = self.loader.load_sweep_config(self.config, list(rest))
            own = copy.deepcopy(cfg)
            with read_write(own), open_dict(own):
                del own["hydra"]
            self.bases[rest] = cfg, own
        cfg, own = self.bases[rest]
        HydraConfig.instance().set_config(cfg)
        own = copy.deepcopy(own)
        ConfigLoaderImpl._apply_overrides_to_config(self.parser.parse_overrides(plain), own)
        return job(own, list(overrides), dict(cfg.hydra.runtime.choices))


def _hidden() -> str | None:
    """What is wrong with a primary config of the project's own, which takes the place of Lamella's."""
    path = conf.PROJECT / "config.yaml"
    if not path.is_file():
        return None
    written = conf.raw(path)
    if written is None and path.read_bytes().strip():
        return None  # no YAML, which is reported with its line
    items = written.get("defaults") if isinstance(written, dict) else None
    defaults = [key for item in (items if isinstance(items, list) else []) if isinstance(item, dict) for key in item]
    missing = [key for key in (*conf.GROUPS, "override hydra/job_logging") if key not in defaults]
    if not missing:
        return None
    return (
        f"{path} takes the place of Lamella's own, and its defaults lack `{missing[0]}`;\n"
        f"  put what differs into conf/experiment/NAME.yaml, or start from the whole of {conf.OWN}/config.yaml"
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
    if key in conf.GROUPS and (name.startswith("~") or (value in ("null", "") and argument != name)):
        return f"{argument}: a run needs every group; write {key}=OPTION (conf/{key}/ holds the options)"
    return None


def _composed(task: Callable[[Job], int], arguments: list[str]) -> int:
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
            composed = job(cfg, overrides, choices)
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
        print(refusal(wrong, overrides, choices), file=sys.stderr)

    sys.argv = ["lamella train", *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise its errors, where it would print them
    try:
        with guarded():
            hydra.main(version_base="1.3", config_path=str(conf.OWN), config_name="config")(one)()
    except Exception as error:
        if full_error == "1" or error in unforeseen:
            raise
        print(refusal(error, [argument for argument in arguments if not argument.startswith("-")]), file=sys.stderr)
        return 2
    finally:
        sys.argv = command_line
        _set("HYDRA_FULL_ERROR", full_error)
    return max(statuses)


def job(cfg: DictConfig, overrides: list[str], choices: dict[str, Any]) -> Job:
    """A config that Hydra has composed, as plain values. Raises RequestError, and what OmegaConf raises."""
    for group in conf.GROUPS:
        node, choice = cfg.get(group), choices.get(group)
        if not isinstance(node, DictConfig):
            path = conf.find(f"{group}/{choice}")
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
    path = conf.find(f"network/{choices.get('network')}")
    texts = [written, path.read_text()] if path else [written]
    found = [name for text in texts for name in re.findall(r"\$\{(?:\w+:)?([\w.\[\]-]+)", text)]
    references = frozenset(re.sub(r"\[.*", "", name) for name in found)
    chosen = {group: str(choices[group]) for group in (*conf.GROUPS, "experiment") if choices.get(group)}
    plain = {str(key): value for key, value in config.items() if key != "sweep"}
    unresolved = conf.walk(OmegaConf.to_container(cfg))
    matched = ((key, re.fullmatch(r"\$\{(\w[\w.]*)\}", value)) for key, value in unresolved if isinstance(value, str))
    reads = {key: read[1] for key, read in matched if read}
    return Job(plain, overrides, references, reads, chosen)


def _resolvers() -> None:
    """What Lamella's own configs interpolate."""

    def class_folders(root: str) -> list[str]:
        from lamella.data.sources import class_folders

        return class_folders(root)

    OmegaConf.register_new_resolver("length", len, replace=True)
    OmegaConf.register_new_resolver("class_folders", class_folders, replace=True)


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
