"""A search: Optuna chooses the values of each next member, and learns from those that are over."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from lamella.config.compose import compose_and_call
from lamella.config.files import project_folder
from lamella.config.launcher import is_fused, is_local, runs_in_process
from lamella.errors import RequestError, nearest
from lamella.runs.sweep_directory import Sweep, is_sweep, open_sweep
from lamella.sweeps.command_line import SweepCommand
from lamella.sweeps.planner import Planner
from lamella.sweeps.run import run_sweep
from lamella.sweeps.search.pruning import PRUNERS
from lamella.sweeps.search.space import corner_jobs, distribution
from lamella.sweeps.search.trials import Trials

SAMPLERS = ("tpe", "random", "grid", "cmaes")


def run_search(loader: ConfigLoader, config: DictConfig, arguments: Sequence[str], options: Mapping[str, Any]) -> None:
    """Run trials up to `n_trials` in all.

    options: those of the sweeper. Raises RequestError, and SystemExit with the exit status where it is not 0.
    """
    _check(options)
    request = SweepCommand.of(loader, config, arguments)
    if options["sampler"] == "cmaes" and len(request.options.objectives) > 1:
        raise RequestError("hydra.sweeper.sampler: cmaes is for one objective", "hydra.sweeper.sampler")
    if request.options.zip:
        raise RequestError("sweep.zip: a search chooses each value by itself", "sweep.zip")
    searched = [override for override in request.overrides if override.is_sweep_override()]
    if not searched:
        raise RequestError("a search takes values to choose from, as 'optimizer.lr=tag(log, interval(1e-4, 1e-1))'")
    space = {override.get_key_element(): distribution(override, options["sampler"]) for override in searched}
    with ExitStack() as stack:
        sweep = stack.enter_context(open_sweep(request.path)) if is_sweep(request.path) else None
        if sweep is not None and sweep.fields.get("search", {}).get("space") != (asked := _texts(request.overrides)):
            before = sweep.fields.get("search", {}).get("space", "a grid")
            raise RequestError(
                f"{request.path} is another sweep, {before}, and not {asked}; choose another sweep.name", "sweep.name"
            )
        if sweep is not None and options["sampler"] == "cmaes" and project_folder().parent == request.path:
            raise RequestError(
                f"{request.path}: CMA-ES keeps its state as a pickle, which runs what its maker wrote;\n"
                "  where that was you, give the search's line again"
            )
        frozen = _frozen(loader, request.path / "conf") if sweep and sweep.members else loader
        planner = Planner(frozen, config, alone=not runs_in_process(request.launcher))
        if sweep is None:
            planned, _, invalid = planner.plans(corner_jobs(request.overrides, space))
            if (invalid and not request.options.skip_invalid) or not planned:
                raise SystemExit(2)
            about = {"space": _texts(request.overrides), "path": str(request.path)}
            fields = request.fields(planned[0], request.threads(options["n_trials"], planned[0].member.config))
            sweep = stack.enter_context(open_sweep(request.path, {**fields, "search": about}))
        if not sweep.members:
            _freeze(sweep.path / "conf")
        request.update(sweep)
        found = Trials(sweep, planner, request, space, options)
        at_once = options["n_jobs"] if is_fused(request.launcher) or not is_local(request.launcher) else None
        status = run_sweep(sweep, found.notes(), found.members(), found.total, found.settle, at_once, request.given)
        found.tell_importances()
        if found.invalid:
            print(f"\n{found.invalid} of the trials could not be run", file=sys.stderr)
            status = status or 1
    if status:
        raise SystemExit(status)


def resume_search(path: Path) -> int:
    """Go on with the search in `path`; returns the exit status. Raises RequestError."""
    fields = Sweep(path).fields
    begun = fields["search"]["path"]
    if Path(begun).resolve() != path.resolve():
        raise RequestError(f"{path}: a search goes on where it was begun, as {begun} below the working directory")
    return compose_and_call(lambda job: 0, list(fields["arguments"]), path / "conf")


def _check(options: Mapping[str, Any]) -> None:
    known = ("n_trials", "sampler", "pruner", "seed", "n_jobs")
    for name in options:
        if name not in known:
            key = f"hydra.sweeper.{name}"
            raise RequestError(f"{key}: there is no such key; {nearest(name, (*known, 'params'))}", key)
    for name in known:
        if name not in options:
            raise RequestError(f"hydra.sweeper.{name}: it is not there any more, and a search needs it")
    for name, least in (("n_trials", 1), ("n_jobs", 1), ("seed", 0)):
        given = options[name]
        if isinstance(given, bool) or not isinstance(given, int) or given < least:
            raise RequestError(
                f"hydra.sweeper.{name} is {given!r}; it takes a whole number from {least} on", f"hydra.sweeper.{name}"
            )
    for name, names in (("sampler", SAMPLERS), ("pruner", (None, *PRUNERS))):
        if options[name] not in names:
            hint = nearest(str(options[name]), [one or "null" for one in names])
            raise RequestError(f"hydra.sweeper.{name} is {options[name]!r}; {hint}", f"hydra.sweeper.{name}")
    try:
        import optuna  # noqa: F401

        if options["sampler"] == "cmaes":
            import cmaes  # noqa: F401
    except ImportError as error:
        raise RequestError(f"hydra/sweeper=optuna takes {error.name}; pip install lamella[optuna]") from error


def _freeze(folder: Path) -> None:
    """Copy the project's configs, from which later trials are composed too."""
    if project_folder().is_dir() and folder != project_folder():
        new = folder.with_name(".conf.new")
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(project_folder(), new, ignore_dangling_symlinks=True)
        new.rename(folder)


def _texts(overrides: Sequence[Override]) -> str:
    return " ".join(sorted(str(override.input_line) for override in overrides))


def _frozen(loader: ConfigLoader, folder: Path) -> ConfigLoader:
    """The same loader with the project's configs as they were when the search began."""
    path = loader.get_search_path()
    own: Any = type(path)()
    own.config_search_path = [item for item in path.get_path() if item.provider != "project"]
    if folder.is_dir():
        own.prepend("project", f"file://{folder.absolute()}", "main")
    again: Any = type(loader)
    return again(own)  # type: ignore[no-any-return]
