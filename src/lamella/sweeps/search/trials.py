"""The trials of a study, each a member of the sweep."""

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from lamella.errors import RequestError
from lamella.runs.names import slug
from lamella.runs.ranking import direction_sign, record_value
from lamella.runs.sweep_directory import Member, Sweep
from lamella.sweeps.command_line import SweepCommand
from lamella.sweeps.planner import Planner
from lamella.sweeps.search.pruning import PRUNED, open_study
from lamella.sweeps.search.space import all_points, override_text

AGAIN = "again"  # marks what stands in the study for a trial that had failed


class Trials:
    """The trials of a study and the members of a sweep, of which each trial is one."""

    def __init__(
        self,
        sweep: Sweep,
        planner: Planner,
        request: SweepCommand,
        space: Mapping[str, Any],
        options: Mapping[str, Any],
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
        directions = ["maximize" if direction_sign(name) > 0 else "minimize" for name in self.objectives]
        self.study = open_study(sweep.path, directions)
        self.total: int = options["n_trials"]
        if options["sampler"] == "grid":
            self.total = min(self.total, math.prod(len(all_points(one)) for one in space.values()))
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
                scores = [record_value(fields, one) for one in self.objectives]
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
        sign = -direction_sign(self.objectives[0])
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
        overrides = [*self.constants, *(f"{key}={override_text(trial.params[key])}" for key in self.space)]
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
            "_target_": "lamella.sweeps.search.pruning.Pruning",
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
            return samplers.GridSampler({key: all_points(one) for key, one in self.space.items()}, seed=seed)
        if self.options["sampler"] == "random":
            return samplers.RandomSampler(seed=seed + number)
        if self.options["sampler"] == "cmaes":
            return samplers.CmaEsSampler(seed=seed + number)
        return samplers.TPESampler(seed=seed + number, constant_liar=True)
