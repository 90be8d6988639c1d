"""Ending a trial that will not be the best, as Optuna decides after each validation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

STUDY = "study.db"
PRUNERS = ("median", "hyperband")
PRUNED = "pruned"  # the mark of a trial that was ended


def open_study(directory: Path, directions: Sequence[str] | None = None, pruner: Any = None) -> Any:
    """The study of the search in `directory`; made where there is none. directions: "maximize" or "minimize"."""
    import optuna
    import sqlalchemy

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = sqlalchemy.URL.create("sqlite", database=str((directory / STUDY).absolute()))
    storage = optuna.storages.RDBStorage(str(url), engine_kwargs={"connect_args": {"timeout": 60}})
    if directions is None:
        return optuna.load_study(study_name="sweep", storage=storage, pruner=pruner)
    given: Any = directions
    return optuna.create_study(study_name="sweep", storage=storage, directions=given, load_if_exists=True)


class Pruning(pl.Callback):
    """Reports a metric after each validation, and ends the run where the pruner says so.

    trial: its number in the study that stands beside the run's directory. metric: a name as "val/accuracy". pruner:
    "median" or "hyperband". epochs: end after so many and ask nobody, as when a run is reproduced.
    """

    def __init__(self, trial: int, metric: str, pruner: str, epochs: int | None = None) -> None:
        self.number, self.metric, self.pruner, self.epochs = trial, metric, pruner, epochs
        self.trial: Any = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        directory = Path(trainer.default_root_dir).parent
        if not trainer.is_global_zero or not (directory / STUDY).is_file() or self.epochs is not None:
            return
        import optuna

        pruners = optuna.pruners
        pruner = (
            pruners.HyperbandPruner(max_resource=trainer.max_epochs or "auto")
            if self.pruner == "hyperband"
            else pruners.MedianPruner()
        )
        study = open_study(directory, pruner=pruner)
        found = study.trials[self.number]
        if not found.state.is_finished():
            self.trial = optuna.Trial(study, found._trial_id)
            self.reported = set(found.intermediate_values)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        step = trainer.current_epoch + 1
        stop = step == self.epochs
        if self.trial is not None and self.metric in trainer.callback_metrics:
            if step not in self.reported:  # it may have been killed after that
                self.trial.report(float(trainer.callback_metrics[self.metric]), step)
            last = step == trainer.max_epochs
            stop = not last and (PRUNED in self.trial.user_attrs or self.trial.should_prune())
            if stop:
                self.trial.set_user_attr(PRUNED, True)
        if trainer.strategy.broadcast(stop):
            trainer.should_stop = True
