"""Connect the trials of an Optuna study with the members of a sweep."""

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from lamella.config.values import Config
from lamella.console import print
from lamella.errors import RequestError
from lamella.runs.names import member_names
from lamella.runs.ranking import direction_sign, larger_is_better, record_value
from lamella.runs.schema import RunRecord
from lamella.runs.sweep_directory import Member, Sweep
from lamella.sweeps.command_line import SweepCommand
from lamella.sweeps.planner import Planner
from lamella.sweeps.search.options import SearchOptions
from lamella.sweeps.search.pruning import PRUNED
from lamella.sweeps.search.space import all_points, override_text
from lamella.sweeps.search.study import create_study, open_trial

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.study import StudyDirection
    from optuna.trial import FrozenTrial

    from lamella.sweeps.search.space import Distribution

# The user attribute of a trial that takes the place of another one, whose number it is: a failed trial stays failed in
# a study, so that a run that succeeds when it is tried again needs a new trial.
REPLACES = "again"


class Trials:
    """The trials of a study, each of which is a member of the sweep.

    planner: plans each new member. space: for each searched key the distribution of its values. Raises RequestError
    where the pruner and the objectives do not fit together.
    """

    def __init__(
        self,
        sweep: Sweep,
        planner: Planner,
        command: SweepCommand,
        space: "Mapping[str, Distribution]",
        options: SearchOptions,
    ) -> None:
        self.sweep, self.planner, self.space, self.options = sweep, planner, space, options
        self.objectives, self.lower = sweep.fields["objectives"], sweep.fields.get("lower_is_better")
        _check_pruner(options, self.objectives)
        self.constants = [
            str(override.input_line) for override in command.overrides if override.get_key_element() not in space
        ]
        self.study = create_study(sweep.path, [self._direction(name) for name in self.objectives])
        self.total = options.n_trials
        if options.sampler == "grid":
            self.total = min(self.total, math.prod(len(all_points(values)) for values in space.values()))
        self.names = {member.trial: name for name, member in sweep.members.items()}  # of the members, by their trial
        self.started, self.invalid, self.skips = set[str](), 0, command.options.skip_invalid

    def notes(self) -> list[str]:
        """Return the remarks for the line that announces the sweep."""
        return [f"{self.options.sampler} for {', '.join(self.objectives)}"]

    def members(self) -> Iterator[Member]:
        """Yield the members to run: those of unfinished and failed trials, then those of new trials.

        Before each new trial, the study is told the results of all members that have finished.
        """
        from optuna.trial import TrialState

        self._give_up_incomplete_trials()
        for trial in self._trials():
            if trial.state in (TrialState.RUNNING, TrialState.FAIL):
                yield from self._member_to_run(trial)
        self.report_results()
        while (count := len(self._trials())) < self.total and (self.sweep.members or self.skips or not self.invalid):
            self.report_results()
            self.study.sampler = self._sampler(count)
            number = self.study.ask(dict(self.space)).number
            yield from self._member_to_run(self.study.trials[number])

    def report_results(self) -> None:
        """Tell the study the results of all members that have ended, and note the pruned ones in the sweep."""
        from optuna.samplers import RandomSampler
        from optuna.trial import TrialState

        # `tell` informs the sampler, and GridSampler would stop the study, which is allowed within `optimize` alone.
        self.study.sampler = RandomSampler()
        replaced = {trial.user_attrs.get(REPLACES) for trial in self.study.trials}
        for trial in self._trials():
            if not trial.state.is_finished() or (trial.state == TrialState.FAIL and trial.number not in replaced):
                name = self.names.get(trial.number)
                self._tell(trial, self.sweep.record(name) if name else None)
        numbers = {trial.number for trial in self.study.trials if trial.state == TrialState.PRUNED}
        pruned = [name for number, name in self.names.items() if number in numbers]
        if pruned != self.sweep.fields.get("pruned", []):
            self.sweep.update(pruned=pruned)

    def print_importances(self) -> None:
        """Print how much each key matters to the first objective, if at least four trials have finished."""
        import optuna

        complete = [trial for trial in self.study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
        if len(self.space) < 2 or len(complete) < 4:
            return
        sign = -direction_sign(self.objectives[0], self.lower)  # Optuna takes low targets for the good ones
        target = (lambda trial: sign * trial.values[0]) if len(self.objectives) > 1 else None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that low targets are the good ones is intended here
                shares = optuna.importance.get_param_importances(self.study, target=target)
        except (RuntimeError, ValueError):  # for example, all trials have the same result
            return
        print(f"\nimportance for {self.objectives[0]}")
        for key, share in shares.items():
            print(f"  {key:<{max(map(len, shares))}}  {share:.2f}")

    def _direction(self, objective: str) -> "StudyDirection":
        """Return whether Optuna is to maximize or to minimize an objective."""
        from optuna.study import StudyDirection

        maximize = larger_is_better(objective, self.lower)
        return StudyDirection.MAXIMIZE if maximize else StudyDirection.MINIMIZE

    def _trials(self) -> "list[FrozenTrial]":
        """Return the trials that are members of the sweep, without those that replace another one."""
        return [trial for trial in self.study.get_trials(deepcopy=False) if REPLACES not in trial.user_attrs]

    def _give_up_incomplete_trials(self) -> None:
        """Mark trials that lack values as failed: the process was killed while it asked for them."""
        from optuna.trial import TrialState

        for trial in self.study.get_trials(deepcopy=False):
            if trial.state == TrialState.RUNNING and set(trial.params) != set(self.space):
                open_trial(self.study, trial.number).set_user_attr(REPLACES, trial.number)
                self.study.tell(trial.number, state=TrialState.FAIL)

    def _tell(self, trial: "FrozenTrial", record: RunRecord | None) -> None:
        """Tell the study the result of one trial, if its run has ended."""
        import optuna
        from optuna.trial import TrialState

        status = record["status"] if record else None
        values = [record_value(record, name) for name in self.objectives] if record and status == "finished" else []
        scores = [value for value in values if value is not None]
        complete = len(scores) == len(self.objectives)
        if trial.state == TrialState.FAIL:
            if complete:
                replacement = optuna.create_trial(
                    params=trial.params,
                    distributions=trial.distributions,
                    values=scores,
                    user_attrs={REPLACES: trial.number},
                )
                self.study.add_trial(replacement)
        elif trial.user_attrs.get(PRUNED) and status == "finished":
            self.study.tell(trial.number, state=TrialState.PRUNED)
        elif complete:
            self.study.tell(trial.number, scores)
        elif status in ("failed", "finished"):
            self.study.tell(trial.number, state=TrialState.FAIL)

    def _member_to_run(self, trial: "FrozenTrial") -> Iterator[Member]:
        """Yield the member of a trial, unless it cannot be run, has started, or has finished."""
        member = self._member(trial)
        if member and member.name not in self.started and self.sweep.status(member.name) != "finished":
            self.started.add(member.name)
            yield member

    def _member(self, trial: "FrozenTrial") -> Member | None:
        """Return the member of a trial, which is planned if it is new. Return None if its config cannot be run."""
        from optuna.trial import TrialState

        if trial.number in self.names:
            return self.sweep.members[self.names[trial.number]]
        overrides = [*self.constants, *(f"{key}={override_text(trial.params[key])}" for key in self.space)]
        known = {name: member.overrides for name, member in self.sweep.members.items()}
        name = next((name for name, others in known.items() if set(others) == set(overrides)), None)
        if name is None:
            [name] = member_names([overrides], self.space, known)
            planned, _, _ = self.planner.plan_all({name: overrides}, skip_invalid=True)
            if not planned:
                self.invalid += 1
                if trial.state == TrialState.RUNNING:
                    self.study.tell(trial.number, state=TrialState.FAIL)
                return None
            member = planned[0].with_threads(self.sweep.fields["threads"]).member
            if self.options.pruner:
                member = replace(member, config=self._with_pruning(member.config, trial.number))
            self.sweep.add([replace(member, trial=trial.number)])
        self.names[trial.number] = name
        return self.sweep.members[name]

    def _with_pruning(self, config: Config, number: int) -> Config:
        """Return the config with the callback that prunes the trial `number`."""
        callback = {
            "_target_": "lamella.sweeps.search.pruning.Pruning",
            "trial": number,
            "metric": self.objectives[0],
            "pruner": self.options.pruner,
        }
        trainer = config["trainer"]
        return {**config, "trainer": {**trainer, "callbacks": [*(trainer.get("callbacks") or []), callback]}}

    def _sampler(self, number: int) -> "BaseSampler":
        """Return a new sampler for the trial `number`.

        A sampler for each trial makes the values depend on the seed and the earlier trials alone, so that a search that
        was interrupted goes on with the values that it would have had.
        """
        from optuna import samplers

        seed = self.options.seed
        if self.options.sampler == "grid":
            return samplers.GridSampler({key: all_points(values) for key, values in self.space.items()}, seed=seed)
        if self.options.sampler == "random":
            return samplers.RandomSampler(seed=seed + number)
        if self.options.sampler == "cmaes":
            return samplers.CmaEsSampler(seed=seed + number)
        return samplers.TPESampler(seed=seed + number, constant_liar=True)


def _check_pruner(options: SearchOptions, objectives: list[str]) -> None:
    """Raise RequestError if there is a pruner, and the objectives are not one metric that each epoch reports."""
    if options.pruner and len(objectives) > 1:
        raise RequestError("hydra.sweeper.pruner: with several objectives nothing is pruned", "sweep.objectives")
    if options.pruner and not objectives[0].startswith(("val/", "train/")):
        raise RequestError(
            f"hydra.sweeper.pruner: {objectives[0]} is not known before a run is over", "sweep.objectives"
        )
