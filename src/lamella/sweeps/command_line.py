"""What the command line of a sweep asks for: which values, where, and how its jobs run."""

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from lamella.config.launcher import SLURM, check_launcher, is_local
from lamella.errors import RequestError, nearest
from lamella.runs.names import OUTPUTS, check_run_name, slug
from lamella.runs.sweep_directory import Sweep
from lamella.sweeps.combinations import swept_keys
from lamella.sweeps.launch.local import LocalLauncher
from lamella.sweeps.planner import PlannedJob

# What can be an objective beside the metrics.
OBJECTIVE_FIELDS = ("seconds", "parameters", "epochs", "steps", "best_epoch")


@dataclass(frozen=True)
class SweepOptions:
    """The `sweep` key of a config."""

    name: str | None = None
    zip: Any = ()
    skip_invalid: bool = False
    max_failures: int | None = None
    objectives: Sequence[str] = ()

    @classmethod
    def of(cls, config: DictConfig) -> "SweepOptions":
        """Raises RequestError."""
        node = config.get("sweep", OmegaConf.create())
        if not isinstance(node, DictConfig):
            raise RequestError(f"sweep is {node!r}; it holds keys, as in sweep.name=…", "sweep")
        given: Any = OmegaConf.to_container(node, resolve=True)
        known = [one.name for one in fields(cls)]
        for key in given:
            if key not in known:
                raise RequestError(f"sweep.{key}: there is no such key; {nearest(key, known)}", f"sweep.{key}")
        options = cls(**{key: one for key, one in given.items() if one is not None})
        if options.name is not None:
            named = isinstance(options.name, str) and "/" not in options.name and options.name.strip()
            if not named or options.name.startswith("."):
                raise RequestError(
                    f"sweep.name is {options.name!r}; it names a directory, and takes a word", "sweep.name"
                )
        most = options.max_failures
        if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
            raise RequestError(f"sweep.max_failures is {most!r}; it takes 1 or more, or null", "sweep.max_failures")
        if not isinstance(options.skip_invalid, bool):
            raise RequestError(
                f"sweep.skip_invalid is {options.skip_invalid!r}; it takes true or false", "sweep.skip_invalid"
            )
        if not isinstance(options.objectives, list | tuple):
            raise RequestError(
                f"sweep.objectives is {options.objectives!r}; it takes a list, as [val/accuracy,seconds]",
                "sweep.objectives",
            )
        return options

    def check(self, monitor: str, metric: str) -> list[str]:
        """The objectives; the monitor where there are none. Raises RequestError for one that no run gives."""
        known = [f"{stage}/{name}" for stage in ("train", "val", "test") for name in ("loss", metric)] + list(
            OBJECTIVE_FIELDS
        )
        for name in self.objectives:
            if name not in known:
                raise RequestError(
                    f"sweep.objectives: {name!r} is none; {nearest(str(name), known)}", "sweep.objectives"
                )
        return list(self.objectives) or [monitor]


@dataclass(frozen=True)
class SweepCommand:
    """What a command line asks for: values, and where and how the jobs run.

    given: the keys of `hydra.launcher` that it set.
    """

    options: SweepOptions
    overrides: list[Override]
    path: Path
    launcher: dict[str, Any]
    given: Collection[str]

    @classmethod
    def of(cls, loader: ConfigLoader, config: DictConfig, arguments: Sequence[str]) -> "SweepCommand":
        """Raises RequestError, and what Hydra's parser raises."""
        options = SweepOptions.of(config)
        launcher: Any = OmegaConf.to_container(config.hydra.launcher, resolve=False)
        written: Any = OmegaConf.to_container(config.hydra.overrides.hydra, resolve=False)
        keys = {text.lstrip("+").partition("=")[0] for text in written}
        own_keys = {key.removeprefix("hydra.launcher.") for key in keys if key.startswith("hydra.launcher.")}
        check_launcher(launcher, own_keys)
        parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(arguments))
        for override in parsed:
            key = override.key_or_group
            if key.startswith("sweep.") and override.is_sweep_override():
                values = str(override.input_line).partition("=")[2]
                raise RequestError(f"{override.input_line}: {key} takes one value; a list is {key}=[{values}]", key)
        # Of a key that is given twice, the last one counts.
        last = {one.get_key_element(): one for one in parsed if not one.key_or_group.startswith("sweep.")}
        overrides = list(last.values())
        given: Any = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
        line = [text for text in given if not text.lstrip("+").startswith("sweep.")]
        parent = OUTPUTS / check_run_name(OmegaConf.select(config, "name"))
        return cls(options, overrides, parent / (options.name or slug(line)), launcher, own_keys)

    @property
    def swept(self) -> list[str]:
        return swept_keys(self.overrides)

    def threads(self, jobs: int, config: Mapping[str, Any]) -> int | None:
        """The CPU threads of each of so many such jobs, where that is left open; None leaves it to torch."""
        if is_local(self.launcher):
            slots = LocalLauncher(self.launcher.get("slots"))
            return max(1, slots.cores // max(1, slots.at_a_time(jobs, config)))
        return self.launcher.get("cpus_per_task") or 1 if self.launcher["_target_"] == SLURM else None

    def update(self, sweep: Sweep) -> None:
        """Let a sweep that is there go on as this asks."""
        swept = list(dict.fromkeys([*sweep.fields["swept"], *self.swept]))
        asked, objectives = list(self.options.objectives), sweep.fields["objectives"]
        if asked and "search" in sweep.fields and asked != sweep.fields["objectives"]:
            raise RequestError(
                f"sweep.objectives: the search is for {sweep.fields['objectives']}; choose another sweep.name",
                "sweep.objectives",
            )
        if asked:
            objectives = self.options.check(sweep.fields["monitor"], sweep.fields["metric"])
        sweep.update(
            arguments=sys.argv[1:],
            swept=swept,
            objectives=objectives,
            launcher=self.launcher,
            max_failures=self.options.max_failures,
        )

    def fields(self, planned: PlannedJob, threads: int | None) -> dict[str, Any]:
        """What `sweep.json` holds at first."""
        return {
            "arguments": sys.argv[1:],
            "launcher": self.launcher,
            "monitor": planned.experiment.monitor,
            "metric": planned.experiment.metric,
            "objectives": self.options.check(planned.experiment.monitor, planned.experiment.metric),
            "swept": self.swept,
            "threads": threads,
            "max_failures": self.options.max_failures,
        }
