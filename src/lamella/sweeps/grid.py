"""A sweep over every combination of the values."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig

from lamella.config.launcher import runs_in_process
from lamella.errors import RequestError
from lamella.runs.names import slug
from lamella.runs.sweep_directory import Member, is_sweep, open_sweep
from lamella.sweeps.combinations import combinations, zipped_keys
from lamella.sweeps.command_line import SweepCommand
from lamella.sweeps.planner import Planner
from lamella.sweeps.run import run_sweep


def run_grid(loader: ConfigLoader, config: DictConfig, arguments: Sequence[str]) -> None:
    """Plan every combination of the values, and run what is missing.

    Raises RequestError, and SystemExit with the exit status where it is not 0.
    """
    request = SweepCommand.of(loader, config, arguments)
    jobs = combinations(request.overrides, zipped_keys(request.options.zip))
    planner = Planner(loader, config, alone=not runs_in_process(request.launcher))
    with ExitStack() as stack:
        known = is_sweep(request.path)
        sweep = stack.enter_context(open_sweep(request.path)) if known else None
        there = sweep.members if sweep else {}
        planned, duplicates, invalid = planner.plans([job for job in jobs if slug(job) not in there])
        if invalid and not request.options.skip_invalid:
            raise SystemExit(2)
        if not (planned or there):
            raise RequestError("no job is left that can be run")
        if sweep is None:
            fields = request.fields(planned[0], request.threads(len(planned), planned[0].member.config))
            sweep = stack.enter_context(open_sweep(request.path, fields))
        if "search" in sweep.fields:
            raise RequestError(f"{request.path} is a search; choose another sweep.name", "sweep.name")
        if slug(jobs[0]) in there:
            _say_if_changed(planner, there[slug(jobs[0])])
        request.update(sweep)
        configs = {json.dumps(member.config) for member in sweep.members.values()}
        members = [one.with_threads(sweep.fields["threads"]).member for one in planned]
        new = [one for one in members if one.name not in sweep.members and json.dumps(one.config) not in configs]
        duplicates += len(members) - len(new)
        sweep.add(new)
        notes = [f"{duplicates} duplicate{'s' * (duplicates > 1)} dropped"] if duplicates else []
        notes += [f"{invalid} that cannot be run left out"] if invalid else []
        notes += [f"the largest network has {max(one.parameters for one in planned):,} parameters"] if planned else []
        status = run_sweep(sweep, notes, given=request.given)
    if status:
        raise SystemExit(status)


def resume_grid(path: Path) -> int:
    """Run what is missing of the sweep in `path`; returns the exit status. Raises RequestError."""
    with open_sweep(path) as sweep:
        return run_sweep(sweep, [])


def _say_if_changed(planner: Planner, member: Member) -> None:
    """One member stands for all: what its config would be by now."""
    try:
        now = planner.composed.job(member.overrides).config
    except Exception:
        return  # the plan counts
    then = member.config
    device = {**now.get("device", {}), "threads": then["device"]["threads"]}
    if {**now, "device": device} != then:
        print(
            "conf/ says something else than when this sweep was planned; the plan counts, sweep.name=… begins another"
        )
