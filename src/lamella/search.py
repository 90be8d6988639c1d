"""A search: Optuna chooses the values of each next member, and learns from those that are over."""

import math
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from lamella import compose, conf, sweeping, sweeps
from lamella.errors import RequestError, nearest
from lamella.guard import fused, inside, local
from lamella.leaderboard import better, value
from lamella.names import slug
from lamella.plan import Planner
from lamella.pruning import PRUNED, PRUNERS, open_study
from lamella.request import Request
from lamella.space import corners, distribution, points, written
from lamella.sweeps import Member, Sweep

SAMPLERS = ("tpe", "random", "grid", "cmaes")
AGAIN = "again"  # marks what stands in the study for a trial that had failed


def search(loader: ConfigLoader, config: DictConfig, arguments: Sequence[str], options: Mapping[str, Any]) -> None:
    """Run trials up to `n_trials` in all.

    options: those of the sweeper. Raises RequestError, and SystemExit with the exit status where it is not 0.
    """
    _check(options)
    request = Request.of(loader, config, arguments)
    if options["sampler"] == "cmaes" and len(request.options.objectives) > 1:
        raise RequestError("hydra.sweeper.sampler: cmaes is for one objective", "hydra.sweeper.sampler")
    if request.options.zip:
        raise RequestError("sweep.zip: a search chooses each value by itself", "sweep.zip")
    searched = [override for override in request.overrides if override.is_sweep_override()]
    if not searched:
        raise RequestError("a search takes values to choose from, as 'optimizer.lr=tag(log, interval(1e-4, 1e-1))'")
    space = {override.get_key_element(): distribution(override, options["sampler"]) for override in searched}
    with ExitStack() as stack:
        sweep = stack.enter_context(sweeps.held(request.path)) if sweeps.is_sweep(request.path) else None
        if sweep is not None and sweep.fields.get("search", {}).get("space") != (asked := _texts(request.overrides)):
            before = sweep.fields.get("search", {}).get("space", "a grid")
            raise RequestError(
                f"{request.path} is another sweep, {before}, and not {asked}; choose another sweep.name", "sweep.name"
            )
        if sweep is not None and options["sampler"] == "cmaes" and conf.PROJECT.parent == request.path:
            raise RequestError(
                f"{request.path}: CMA-ES keeps its state as a pickle, which runs what its maker wrote;\n"
                "  where that was you, give the search's line again"
            )
        frozen = _frozen(loader, request.path / "conf") if sweep and sweep.members else loader
        planner = Planner(frozen, config, alone=not inside(request.launcher))
        if sweep is None:
            planned, _, invalid = planner.plans(corners(request.overrides, space))
            if (invalid and not request.options.skip_invalid) or not planned:
                raise SystemExit(2)
            about = {"space": _texts(request.overrides), "path": str(request.path)}
            fields = request.fields(planned[0], request.threads(options["n_trials"], planned[0].member.config))
            sweep = stack.enter_context(sweeps.held(request.path, {**fields, "search": about}))
        if not sweep.members:
            _freeze(sweep.path / "conf")
        request.update(sweep)
        found = _Search(sweep, planner, request, space, options)
        at_once = options["n_jobs"] if fused(request.launcher) or not local(request.launcher) else None
        status = sweeping.run(sweep, found.notes(), found.members(), found.total, found.settle, at_once, request.given)
        found.tell_importances()
        if found.invalid:
            print(f"\n{found.invalid} of the trials could not be run", file=sys.stderr)
            status = status or 1
    if status:
        raise SystemExit(status)


def resume(path: Path) -> int:
    """Go on with the search in `path`; returns the exit status. Raises RequestError."""
    fields = Sweep(path).fields
    begun = fields["search"]["path"]
    if Path(begun).resolve() != path.resolve():
        raise RequestError(f"{path}: a search goes on where it was begun, as {begun} below the working directory")
    return compose.run(lambda job: 0, list(fields["arguments"]), path / "conf")


class _Search:
    """The trials of a study and the members of a sweep, of which each trial is one."""

    def __init__(
        self, sweep: Sweep, planner: Planner, request: Request, space: Mapping[str, Any], options: Mapping[str, Any]
    ) -> None:
        self.sweep, self.planner, self.space, self.options = sweep, planner, space, options
        self.constants = [str(one.input_line) for one in request.overrides if one.get_key_element() not in space]
        self.objectives: list[str] = sweep.fields["objectives"]
        if options["pruner"] and len(self.objectives) > 1:
            raise RequestError("hydra.sweeper.pruner: with several objectives nothing is pruned", "sweep.objectives")
        if options["pruner"] and not self.objectives[0].startswith(("val/", "train/")):
            raise RequestError(
                f"hydra.sweeper.pruner: {self.objectives[0]} is not known before a run is over", "sweep.objectives"
            )
        directions = ["maximize" if better(name) > 0 else "minimize" for name in self.objectives]
        self.study = open_study(sweep.path, directions)
        self.total: int = options["n_trials"]
        if options["sampler"] == "grid":
            self.total = min(self.total, math.prod(len(points(one)) for one in space.values()))
        self.names = {member.trial: name for name, member in sweep.members.items()}
        self.begun, self.invalid = set[str](), 0

    def notes(self) -> list[str]:
        shown = ", ".join(self.objectives)
        return [f"{self.options['sampler']} for {shown}"]

    def members(self) -> Iterator[Member]:
        """What is to be run: trials that were not finished, then new ones; the finished are told before each."""
        import optuna

        for trial in self.study.get_trials(deepcopy=False):
            if trial.state == optuna.trial.TrialState.RUNNING and set(trial.params) != set(self.space):
                # Killed while it was asked for; another takes its place.
                self.study._storage.set_trial_user_attr(trial._trial_id, AGAIN, trial.number)
                self.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        for trial in self._trials():
            if trial.state in (optuna.trial.TrialState.RUNNING, optuna.trial.TrialState.FAIL):
                member = self._member(trial)
                if member and member.name not in self.begun and self.sweep.status(member.name) != "finished":
                    self.begun.add(member.name)
                    yield member
        self.settle()
        while len(self._trials()) < self.total:
            self.settle()
            self.study.sampler = self._sampler(len(self._trials()))
            asked = self.study.ask(self.space)
            member = self._member(self.study.trials[asked.number])
            if member and member.name not in self.begun and self.sweep.status(member.name) != "finished":
                self.begun.add(member.name)
                yield member

    def settle(self) -> None:
        """Tell the study of all that is over."""
        import optuna

        # A grid's would end the study after its last point, which only `optimize` allows.
        self.study.sampler = optuna.samplers.RandomSampler()
        states, told = optuna.trial.TrialState, {one.user_attrs.get(AGAIN) for one in self.study.trials}
        for trial in self._trials():
            name = self.names.get(trial.number)
            if trial.state.is_finished() and (trial.state != states.FAIL or trial.number in told):
                continue
            fields = self.sweep.record(name) if name else None
            status = fields["status"] if fields else None
            scores: list[Any] = [None]
            if fields and status == "finished":
                scores = [value(fields, one) for one in self.objectives]
            if trial.state == states.FAIL:
                if None not in scores:
                    self.study.add_trial(
                        optuna.create_trial(
                            params=trial.params,
                            distributions=trial.distributions,
                            values=scores,
                            user_attrs={AGAIN: trial.number},
                        )
                    )
            elif trial.user_attrs.get(PRUNED) and status == "finished":
                self.study.tell(trial.number, state=states.PRUNED)
            elif None not in scores:
                self.study.tell(trial.number, scores)
            elif status in ("failed", "finished"):
                self.study.tell(trial.number, state=states.FAIL)
        numbers = {one.number for one in self.study.trials if one.state == states.PRUNED}
        pruned = [name for number, name in self.names.items() if number in numbers]
        if pruned != self.sweep.fields.get("pruned", []):
            self.sweep.update(pruned=pruned)

    def tell_importances(self) -> None:
        """Print how much each value matters to the first objective, where there is enough to say so."""
        import optuna

        done = [one for one in self.study.trials if one.state == optuna.trial.TrialState.COMPLETE]
        if len(self.space) < 2 or len(done) < 4:
            return
        sign = -better(self.objectives[0])
        target = (lambda trial: sign * trial.values[0]) if len(self.objectives) > 1 else None  # low ones count
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that low ones count is meant
                found = optuna.importance.get_param_importances(self.study, target=target)
        except (RuntimeError, ValueError):  # all alike, say
            return
        print(f"\nimportance for {self.objectives[0]}")
        for key, share in found.items():
            print(f"  {key:<{max(map(len, found))}}  {share:.2f}")

    def _trials(self) -> list[Any]:
        return [one for one in self.study.get_trials(deepcopy=False) if AGAIN not in one.user_attrs]

    def _member(self, trial: Any) -> Member | None:
        """The member that a trial is, planned if it was not yet; None where its config cannot be run."""
        import optuna

        if trial.number in self.names:
            return self.sweep.members[self.names[trial.number]]
        overrides = [*self.constants, *(f"{key}={written(trial.params[key])}" for key in self.space)]
        name = slug(overrides)
        if name not in self.sweep.members:
            planned, _, _ = self.planner.plans([overrides])
            if not planned:
                self.invalid += 1
                if trial.state == optuna.trial.TrialState.RUNNING:
                    self.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                return None
            member = planned[0].with_threads(self.sweep.fields["threads"]).member
            if self.options["pruner"]:
                member = replace(member, config=self._with_pruning(member.config, trial.number))
            self.sweep.add([replace(member, trial=trial.number)])
        self.names[trial.number] = name
        return self.sweep.members[name]

    def _with_pruning(self, config: dict[str, Any], number: int) -> dict[str, Any]:
        callback = {
            "_target_": "lamella.pruning.Pruning",
            "trial": number,
            "metric": self.objectives[0],
            "pruner": self.options["pruner"],
        }
        trainer = config["trainer"]
        return {**config, "trainer": {**trainer, "callbacks": [*(trainer.get("callbacks") or []), callback]}}

    def _sampler(self, number: int) -> Any:
        """A sampler for one trial: what it draws depends on the seed and the trials before, and on no interruption."""
        import optuna

        seed = self.options["seed"]
        samplers = optuna.samplers
        if self.options["sampler"] == "grid":
            return samplers.GridSampler({key: points(one) for key, one in self.space.items()}, seed=seed)
        if self.options["sampler"] == "random":
            return samplers.RandomSampler(seed=seed + number)
        if self.options["sampler"] == "cmaes":
            return samplers.CmaEsSampler(seed=seed + number)
        return samplers.TPESampler(seed=seed + number, constant_liar=True)


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
    if conf.PROJECT.is_dir() and folder != conf.PROJECT:
        new = folder.with_name(".conf.new")
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(conf.PROJECT, new, ignore_dangling_symlinks=True)
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
