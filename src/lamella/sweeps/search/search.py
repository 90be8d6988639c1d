"""Run a search: Optuna chooses the values of each next member by the results of those that have finished."""

import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from lamella.config.compose import compose_and_call
from lamella.config.files import project_folder
from lamella.config.hydra_internals import with_project_folder
from lamella.config.launcher import is_fused, is_local, runs_in_process
from lamella.config.values import Config
from lamella.console import print
from lamella.data.cache import sharing_images
from lamella.errors import RequestError
from lamella.runs.names import slug
from lamella.runs.sweep_directory import Sweep, is_sweep, open_sweep, remove_if_empty
from lamella.sweeps.command_line import SweepCommand
from lamella.sweeps.estimate import Estimate, estimate_sweep
from lamella.sweeps.planner import PlannedJob, Planner
from lamella.sweeps.run import SweepRun
from lamella.sweeps.search.options import SearchOptions
from lamella.sweeps.search.space import corner_jobs, distribution, is_interval
from lamella.sweeps.search.study import study_errors
from lamella.sweeps.search.trials import Trials
from lamella.tables import format_duration

if TYPE_CHECKING:
    from lamella.sweeps.search.space import Distribution


def run_search(loader: ConfigLoader, config: DictConfig, arguments: Sequence[str], values: Config) -> None:
    """Run trials until there are `n_trials` in all.

    loader, config, arguments: what Hydra gives a sweeper. values: those of `hydra.sweeper`. Raises RequestError, and
    SystemExit with the exit status where that is not 0.
    """
    options = SearchOptions.of(values)
    command = SweepCommand.of(loader, config, arguments)
    space = _space(command, options)
    with ExitStack() as stack:
        sweep = stack.enter_context(open_sweep(command.path)) if is_sweep(command.path) else None
        if sweep is not None:
            _check_same_search(sweep, command, options)
        if sweep and sweep.members:  # later trials are composed from the configs of the first ones
            loader = with_project_folder(loader, command.path / "conf")
        planner = Planner(loader, config, own_process=not runs_in_process(command.launcher))
        corners = list[PlannedJob]()
        if sweep is None:
            corners = _corners(planner, command, space, config)
            record = command.fields(corners[0], command.threads(options.n_trials, corners[0].member.config))
            record["search"] = {"space": _space_text(command.overrides), "path": str(command.path)}
            sweep = stack.enter_context(open_sweep(command.path, record))
            stack.callback(remove_if_empty, sweep)
        if not sweep.members:
            _copy_project_configs(sweep.path / "conf")
        stack.enter_context(sharing_images(sweep.path))
        stack.enter_context(study_errors(command.path))
        trials = Trials(sweep, planner, command, space, options)
        at_once = options.n_jobs if is_fused(command.launcher) or not is_local(command.launcher) else None
        estimate = _estimate(sweep, command, options, corners, trials.total, at_once)
        command.update(sweep)
        run = SweepRun(
            sweep,
            trials.notes(),
            trials.members(),
            trials.total,
            at_once,
            command.launcher_keys,
            estimate,
            command.options.budget,
        )
        first = list(islice(run.members, 1))
        if not sweep.members:
            raise RequestError("the search ends, because no trial can be run; nothing was trained")
        run.members = chain(first, run.members)
        status = run.run(trials.report_results)
        trials.print_importances()
        if trials.invalid:
            print(f"\n{trials.invalid} of the trials could not be run", file=sys.stderr)
            status = status or 1
    if status:
        raise SystemExit(status)


def resume_search(path: Path) -> int:
    """Go on with the search in `path`, and return the exit status. Raises RequestError."""
    fields = Sweep(path).fields
    original = fields["search"]["path"]
    if Path(original).resolve() != path.resolve():
        raise RequestError(
            f"{path}: a search resumes only in the place where it was started: {original} below the working directory"
        )
    return compose_and_call(lambda job: 0, list(fields["arguments"]), path / "conf")


def _space(command: SweepCommand, options: SearchOptions) -> "dict[str, Distribution]":
    """Return for each searched key the distribution of its values. Raises RequestError where there is no such key."""
    if options.sampler == "cmaes" and len(command.options.objectives) > 1:
        raise RequestError("hydra.sweeper.sampler: cmaes is for one objective", "hydra.sweeper.sampler")
    if command.options.zip:
        raise RequestError("sweep.zip: a search chooses each value by itself", "sweep.zip")
    searched = [override for override in command.overrides if override.is_sweep_override()]
    if not searched:
        raise RequestError("a search takes values to choose from, as 'optimizer.lr=tag(log, interval(1e-4, 1e-1))'")
    return {override.get_key_element(): distribution(override, options.sampler) for override in searched}


def _check_same_search(sweep: Sweep, command: SweepCommand, options: SearchOptions) -> None:
    """Raise RequestError if the existing sweep cannot go on with this command line."""
    known, asked = sweep.fields.get("search", {}).get("space"), _space_text(command.overrides)
    if known != asked:
        raise RequestError(
            f"{sweep.path} is another sweep, {known or 'a grid'}, and not {asked}; choose another sweep.name",
            "sweep.name",
        )
    if options.sampler == "cmaes" and project_folder().parent == sweep.path:  # this is `lamella resume`
        raise RequestError(
            f"{sweep.path}: the state of CMA-ES is a pickle, and loading a pickle can run any program;\n"
            "  if the search is your own, give the command line of the search again"
        )


def _estimate(
    sweep: Sweep,
    command: SweepCommand,
    options: SearchOptions,
    corners: Sequence[PlannedJob],
    total: int,
    at_once: int | None,
) -> Estimate | None:
    """Return what the trials that are left take, None if that is not estimated.

    They are taken to be like those that have finished, or else like those at the ends of the space. Raises RequestError
    if a single trial takes longer than the budget.
    """
    members = list(sweep.members.values())
    finished = [member for member in members if sweep.status(member.name) == "finished"]
    likely = finished or members or [job.with_threads(sweep.fields["threads"]).member for job in corners]
    budget = command.options.budget
    wanted = command.options.measure if is_fused(command.launcher) else command.options.wants_estimate
    expected = math.inf if members else sum(job.seconds for job in corners)
    estimate = estimate_sweep(sweep, likely, command.launcher, wanted, expected, total - len(finished), at_once)
    if estimate and budget and estimate.longest > budget:
        raise RequestError(
            f"sweep.budget is {format_duration(budget)}, and a single trial takes {format_duration(estimate.longest)}; "
            "write a larger budget or a\n  smaller trainer.max_epochs",
            "sweep.budget",
        )
    return replace(estimate, at_most=True) if estimate and options.pruner else estimate


def _corners(
    planner: Planner, command: SweepCommand, space: "Mapping[str, Distribution]", config: DictConfig
) -> list[PlannedJob]:
    """Plan jobs at the ends of the space. Raises RequestError if jobs cannot be run."""
    jobs = {slug(job): job for job in corner_jobs(command.overrides, space)}
    try:
        planned, _, _ = planner.plan_all(jobs, command.options.skip_invalid)
        if not planned:
            raise RequestError("the search ends, because no trial can be run; nothing was trained")
    except RequestError as error:
        lines = [str(error)]
        for override in command.overrides:
            key, values = override.get_key_element(), str(override.input_line).partition("=")[2]
            if key in space and is_interval(space[key]) and isinstance(OmegaConf.select(config, key), int):
                lines.append(f"  an interval gives floats; for whole numbers write '{key}=int({values})'")
        raise RequestError("\n".join(lines)) from error
    return planned


def _space_text(overrides: Sequence[Override]) -> str:
    """Return all overrides of a search as one text, by which it is recognised."""
    return " ".join(sorted(str(override.input_line) for override in overrides))


def _copy_project_configs(folder: Path) -> None:
    """Copy the project's `conf/` into `folder`, so that later edits do not change the trials to come."""
    if project_folder().is_dir() and folder != project_folder():
        new = folder.with_name(".conf.new")
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(project_folder(), new, ignore_dangling_symlinks=True)
        new.rename(folder)
