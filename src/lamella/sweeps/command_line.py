"""Read the command line of a sweep: the values to combine, the directory, and how the jobs run."""

import re
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, ListConfig, OmegaConf

from lamella.config.grammar import parse_overrides
from lamella.config.launcher import SLURM, check_launcher, is_local
from lamella.config.values import Config
from lamella.errors import RequestError, nearest
from lamella.experiment.build import SUPERVISED
from lamella.runs.names import OUTPUTS, check_run_name, slug, sweep_name
from lamella.runs.schema import SWEEP_FORMAT, SweepRecord
from lamella.runs.sweep_directory import Sweep, is_sweep
from lamella.sweeps.combinations import swept_keys, zipped_keys
from lamella.sweeps.launch.local import LocalLauncher
from lamella.sweeps.leaderboard import OVER
from lamella.sweeps.planner import PlannedJob

# The fields of a record that can be objectives, besides the metrics.
OBJECTIVE_FIELDS = ("seconds", "parameters", "epochs", "steps", "best_epoch")


@dataclass(frozen=True)
class SweepOptions:
    """The values of the config key `sweep`.

    name: of the sweep's directory. zip: groups of keys that change together. over: keys in which the runs of one row
    of the leaderboard differ. skip_invalid: leave out the jobs that
    cannot be run. max_failures: the number of failed jobs after which no more start. objectives: what the leaderboard
    is sorted by, and what a search optimizes. measure: whether jobs are measured before the sweep starts, None to do so
    for long sweeps. budget: the seconds that the sweep may take.
    """

    name: str | None = None
    zip: Sequence[Sequence[str]] = ()
    over: Sequence[str] = OVER
    skip_invalid: bool = False
    max_failures: int | None = None
    objectives: Sequence[str] = ()
    measure: bool | None = None
    budget: float | None = None

    @classmethod
    def of(cls, config: DictConfig) -> "SweepOptions":
        """Read the key `sweep` of a composed config. Raises RequestError for an unknown key or a wrong value."""
        node = config.get("sweep", OmegaConf.create())
        if not isinstance(node, DictConfig):
            raise RequestError(f"sweep is {node!r}; it holds keys, as in sweep.name=…", "sweep")
        values = _plain(node, resolve=True)
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise RequestError(f"sweep.{key}: there is no such key; {nearest(key, known)}", f"sweep.{key}")
        values = {key: value for key, value in values.items() if value is not None}
        return cls(
            name=None if values.get("name") is None else check_run_name(values["name"], "sweep.name"),
            zip=zipped_keys(values.get("zip")),
            over=_checked_keys(values.get("over", list(OVER))),
            skip_invalid=_checked_flag("skip_invalid", values.get("skip_invalid", False)),
            max_failures=_checked_limit(values.get("max_failures")),
            objectives=_checked_objectives(values.get("objectives", [])),
            measure=_checked_flag("measure", values["measure"]) if "measure" in values else None,
            budget=_checked_budget(values["budget"]) if "budget" in values else None,
        )

    @property
    def wants_estimate(self) -> bool | None:
        """Return whether jobs are measured, as a budget asks for, or None to do so for long sweeps."""
        return True if self.budget and self.measure is None else self.measure

    def check_over(self, swept: Collection[str]) -> None:
        """Raise RequestError for a key of `over` that was written and has no values."""
        for key in self.over:
            if key not in (*swept, *OVER):
                raise RequestError(f"sweep.over: {key} has no values here; {nearest(key, swept)}", "sweep.over")

    def check(self, monitor: str, counted: Collection[str], logs_more: bool) -> list[str]:
        """Return the objectives, by default the monitor alone. Raises RequestError for one that no run reports.

        monitor: that of the runs. counted: the names of their metrics, without the stage. logs_more: whether a step of
        the project's own may log others.
        """
        stages = ("train", "val", "test")
        metrics = [f"{stage}/{name}" for stage in stages for name in counted]
        known = [*metrics, *OBJECTIVE_FIELDS]
        for name in self.objectives:
            if name not in known and not (logs_more and name.partition("/")[0] in stages):
                raise RequestError(
                    f"sweep.objectives: there is no {name!r}; {nearest(name, known)}", "sweep.objectives"
                )
        return list(self.objectives) or [monitor]


@dataclass(frozen=True)
class SweepCommand:
    """The command line of a sweep.

    overrides: those of the jobs, the last one for each key. path: the directory of the sweep. launcher: the values of
    `hydra.launcher`. launcher_keys: the keys of `hydra.launcher` that the command line sets.
    """

    options: SweepOptions
    overrides: list[Override]
    path: Path
    launcher: dict[str, object]
    launcher_keys: Collection[str]

    @classmethod
    def of(cls, loader: ConfigLoader, config: DictConfig, arguments: Sequence[str]) -> "SweepCommand":
        """Read the command line `arguments`, of which `config` was composed.

        Raises RequestError, and what Hydra's parser raises.
        """
        options = SweepOptions.of(config)
        launcher = _plain(config.hydra.launcher, resolve=False)
        hydra_keys = {text.lstrip("+").partition("=")[0] for text in _texts(config.hydra.overrides.hydra)}
        prefix = "hydra.launcher."
        launcher_keys = {key.removeprefix(prefix) for key in hydra_keys if key.startswith(prefix)}
        check_launcher(launcher, launcher_keys)
        overrides = {}  # where a key is given twice, the last override counts
        for override in parse_overrides(arguments, several=True, loader=loader):
            key = override.key_or_group
            if not key.startswith("sweep."):
                overrides[override.get_key_element()] = override
            elif override.is_sweep_override():
                values = str(override.input_line).partition("=")[2]
                raise RequestError(f"{override.input_line}: {key} takes one value; a list is {key}=[{values}]", key)
        options.check_over(swept_keys(list(overrides.values())))
        line = [text for text in _texts(config.hydra.overrides.task) if not text.lstrip("+").startswith("sweep.")]
        parent = OUTPUTS / check_run_name(OmegaConf.select(config, "name"))
        path = parent / (options.name or _directory_name(parent, swept_keys(list(overrides.values())), line))
        return cls(options, list(overrides.values()), path, launcher, launcher_keys)

    @property
    def swept(self) -> list[str]:
        """Return the keys whose overrides have several values."""
        return swept_keys(self.overrides)

    def threads(self, jobs: int, config: Config) -> int | None:
        """Return the CPU threads for each of `jobs` jobs with this config, None to let torch decide."""
        if is_local(self.launcher):
            local = LocalLauncher(self.launcher.get("slots"))
            return max(1, local.cores // max(1, local.at_a_time(jobs, config)))
        cpus = self.launcher.get("cpus_per_task")
        return (cpus if isinstance(cpus, int) and cpus else 1) if self.launcher["_target_"] == SLURM else None

    def update(self, sweep: Sweep) -> None:
        """Change an existing sweep to what this command line asks for. Raises RequestError where it cannot change."""
        objectives, known = list(self.options.objectives), sweep.fields["objectives"]
        if objectives and "search" in sweep.fields and objectives != known:
            raise RequestError(
                f"sweep.objectives: the search is for {known}; choose another sweep.name", "sweep.objectives"
            )
        if objectives and objectives != list(known):
            configs = [member.config for member in sweep.members.values()]
            own = [name for config in configs for name in config.get("metrics") or {}]
            logs_more = any(config.get("task", {}).get("_target_", SUPERVISED) != SUPERVISED for config in configs)
            known = self.options.check(sweep.fields["monitor"], ["loss", sweep.fields["metric"], *own], logs_more)
        sweep.update(
            arguments=sys.argv[1:],
            swept=list(dict.fromkeys([*sweep.fields["swept"], *self.swept])),
            objectives=known,
            over=list(self.options.over),
            launcher=self.launcher,
            max_failures=self.options.max_failures,
        )

    def fields(self, planned: PlannedJob, threads: int | None) -> SweepRecord:
        """Return the content of `sweep.json` for a new sweep."""
        experiment = planned.experiment
        return {
            "format": SWEEP_FORMAT,
            "arguments": sys.argv[1:],
            "launcher": self.launcher,
            "monitor": experiment.monitor,
            "metric": experiment.objective.metric,
            "lower_is_better": experiment.lower_is_better,
            "objectives": self.options.check(experiment.monitor, experiment.counted, experiment.kind.has_own_step),
            "swept": self.swept,
            "over": list(self.options.over),
            "threads": threads,
            "max_failures": self.options.max_failures,
        }


def _directory_name(parent: Path, swept: Collection[str], line: Sequence[str]) -> str:
    """Return the name of the directory in `parent` for a sweep that was given none.

    The same line finds its sweep again, also one that an earlier version of Lamella has named.
    """
    if is_sweep(parent / slug(line)):
        return slug(line)
    name = sweep_name(swept, line)
    if is_sweep(parent / name) and not set(line) <= set(Sweep(parent / name).fields["arguments"]):
        return sweep_name(swept, line, digits=12)  # another line has the same short hash
    return name


def _plain(node: DictConfig, resolve: bool) -> dict[str, object]:
    """Return a node of a composed config as a dict of plain values."""
    values = OmegaConf.to_container(node, resolve=resolve)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _texts(node: ListConfig) -> list[str]:
    """Return a list of overrides as it was written, with interpolations that are not resolved."""
    texts = OmegaConf.to_container(node, resolve=False)
    assert isinstance(texts, list)
    return texts


def _checked_limit(limit: object) -> int | None:
    if limit is None:
        return None
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise RequestError(f"sweep.max_failures is {limit!r}; it takes 1 or more, or null", "sweep.max_failures")
    return limit


def _checked_flag(name: str, flag: object) -> bool:
    if not isinstance(flag, bool):
        raise RequestError(f"sweep.{name} is {flag!r}; it takes true or false", f"sweep.{name}")
    return flag


def _checked_budget(budget: object) -> float:
    """Return the seconds in a budget such as 2h."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *(s|min|h|d)", str(budget))
    if not match or not float(match[1]):
        raise RequestError(
            f"sweep.budget is {budget!r}; it takes a number with its unit, as 30s, 90min, 2h or 1.5d, or null",
            "sweep.budget",
        )
    return float(match[1]) * {"s": 1, "min": 60, "h": 3600, "d": 86400}[match[2]]


def _checked_keys(keys: object) -> list[str]:
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise RequestError(f"sweep.over is {keys!r}; it takes a list of keys, as [seed,data.fold]", "sweep.over")
    return keys


def _checked_objectives(objectives: object) -> list[str]:
    if not isinstance(objectives, list):
        raise RequestError(
            f"sweep.objectives is {objectives!r}; it takes a list, as [val/accuracy,seconds]", "sweep.objectives"
        )
    return list(map(str, objectives))
