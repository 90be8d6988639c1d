"""Run a sweep over every combination of the values."""

import json
import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, OmegaConf

from lamella.config.launcher import runs_in_process
from lamella.config.moved_targets import with_present_names
from lamella.config.value_text import parse_value
from lamella.config.values import key_of
from lamella.console import print
from lamella.data.cache import sharing_images
from lamella.errors import RequestError
from lamella.runs.names import member_names
from lamella.runs.sweep_directory import Member, Sweep, is_sweep, open_sweep, remove_if_empty
from lamella.sweeps.combinations import combinations
from lamella.sweeps.command_line import SweepCommand
from lamella.sweeps.estimate import check_budget, estimate_sweep
from lamella.sweeps.planner import PlannedJob, Planner
from lamella.sweeps.run import SweepRun


def run_grid(loader: ConfigLoader, config: DictConfig, arguments: Sequence[str]) -> None:
    """Plan a job for every combination of the values, and run the jobs that have not finished.

    loader, config, arguments: what Hydra gives a sweeper. Raises RequestError, and SystemExit with the exit status
    where that is not 0.
    """
    command = SweepCommand.of(loader, config, [*arguments, *_fold_values(config, arguments)])
    jobs = combinations(command.overrides, command.options.zip)
    planner = Planner(loader, config, own_process=not runs_in_process(command.launcher))
    with ExitStack() as stack:
        sweep = stack.enter_context(open_sweep(command.path)) if is_sweep(command.path) else None
        known = {frozenset(member.overrides): member for member in sweep.members.values()} if sweep else {}
        distinct = {frozenset(job): job for job in jobs}
        new = [job for identity, job in distinct.items() if identity not in known]
        names = member_names(new, command.swept, {member.name: member.overrides for member in known.values()})
        planned, duplicates, invalid = planner.plan_all(
            dict(zip(names, new, strict=True)), command.options.skip_invalid
        )
        duplicates += len(jobs) - len(distinct)
        if not (planned or known):
            raise RequestError("no job is left that can be run")
        if sweep is None:
            fields = command.fields(planned[0], command.threads(len(planned), planned[0].member.config))
            sweep = stack.enter_context(open_sweep(command.path, fields))
            stack.callback(remove_if_empty, sweep)
        if "search" in sweep.fields:
            raise RequestError(f"{command.path} is a search; choose another sweep.name", "sweep.name")
        if first := known.get(frozenset(jobs[0])):
            _note_changed_configs(planner, first)
        members = _new_members(sweep, planned)
        duplicates += len(planned) - len(members)
        unfinished = sweep.unfinished()
        expected = math.inf if unfinished else sum(job.seconds for job in planned)
        stack.enter_context(sharing_images(sweep.path))
        missing = [*unfinished, *members]
        estimate = estimate_sweep(sweep, missing, command.launcher, command.options.wants_estimate, expected)
        if missing and command.options.budget:
            check_budget(estimate, command.options.budget)
        command.update(sweep)
        sweep.add(members)
        notes = [f"{duplicates} duplicate{'s' * (duplicates > 1)} dropped"] if duplicates else []
        notes += [f"{invalid} that cannot be run left out"] if invalid else []
        notes += [f"the largest network has {max(job.parameters for job in planned):,} parameters"] if planned else []
        status = SweepRun(sweep, notes, given=command.launcher_keys, estimate=estimate).run()
    if status:
        raise SystemExit(status)


def resume_grid(path: Path) -> int:
    """Run the jobs of the sweep in `path` that have not finished, and return the exit status. Raises RequestError."""
    with open_sweep(path) as sweep, sharing_images(path):
        return SweepRun(sweep, estimate=estimate_sweep(sweep, sweep.unfinished(), sweep.fields["launcher"], None)).run()


def _fold_values(config: DictConfig, arguments: Sequence[str]) -> list[str]:
    """Return the override for each fold of cross-validation, where the folds are known and no fold is chosen."""
    given = {key_of(text): text.partition("=")[2] for text in arguments}
    folds = parse_value(given["data.folds"]) if "data.folds" in given else OmegaConf.select(config, "data.folds")
    chosen = "data.fold" in given or OmegaConf.select(config, "data.fold") is not None
    if chosen or isinstance(folds, bool) or not isinstance(folds, int) or folds < 2:
        return []
    return [f"{'' if 'fold' in config.data else '+'}data.fold=range(0,{folds})"]


def _new_members(sweep: Sweep, planned: Sequence[PlannedJob]) -> list[Member]:
    """Return the planned jobs as members, without those that have the config of a member of the sweep."""
    configs = {json.dumps(member.config) for member in sweep.members.values()}
    members = [job.with_threads(sweep.fields["threads"]).member for job in planned]
    return [
        member for member in members if member.name not in sweep.members and json.dumps(member.config) not in configs
    ]


def _note_changed_configs(planner: Planner, member: Member) -> None:
    """Print a note if `conf/` has changed since the sweep was planned. Only one member is composed again."""
    try:
        now = planner.composer.job(member.overrides).config
    except Exception:
        return  # the config cannot be composed any more, and is not needed, because the sweep keeps its planned configs
    device = {**now.get("device", {}), "threads": member.config["device"]["threads"]}
    if with_present_names({**now, "device": device}) != with_present_names(member.config):
        print(
            "note: conf/ has changed since this sweep was planned; "
            "the sweep keeps its planned configs, and sweep.name=… starts a new one"
        )
