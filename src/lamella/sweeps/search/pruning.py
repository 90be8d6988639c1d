"""End trials early that will not become the best, as Optuna decides after each validation."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytorch_lightning as pl

from lamella.sweeps.search.study import STUDY, load_study, open_trial
from lamella.training.own_module import logged_names

if TYPE_CHECKING:
    import optuna

PRUNED = "pruned"  # the user attribute of a trial that was ended early


class Pruning(pl.Callback):
    """A callback that reports a metric to Optuna after each validation, and ends the run if the pruner decides so.

    trial: the number of the run's trial in the study, which is stored in the directory of the sweep. metric: its name,
    as "val/accuracy". pruner: "median" or "hyperband". epochs: end after this number of epochs without asking Optuna,
    as when a pruned run is reproduced.
    """

    def __init__(self, trial: int, metric: str, pruner: str, epochs: int | None = None) -> None:
        self.number, self.metric, self.pruner, self.epochs = trial, metric, pruner, epochs
        self.trial: optuna.Trial | None = None
        self.reported = set[int]()  # the epochs whose metric the study has

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the trial in the study, unless there is none to report to."""
        directory = Path(trainer.default_root_dir).parent
        if not trainer.is_global_zero or not (directory / STUDY).is_file() or self.epochs is not None:
            return
        import optuna

        pruner: optuna.pruners.BasePruner = optuna.pruners.MedianPruner()
        if self.pruner == "hyperband":
            pruner = optuna.pruners.HyperbandPruner(max_resource=trainer.max_epochs or "auto")
        study = load_study(directory, pruner)
        trial = study.trials[self.number]
        if not trial.state.is_finished():
            self.trial, self.reported = open_trial(study, self.number), set(trial.intermediate_values)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the metric, and stop the Trainer on every rank if the run is to end."""
        epoch = trainer.current_epoch + 1
        stop = epoch == self.epochs
        metrics = trainer.callback_metrics
        name = next((name for name in logged_names(self.metric) if name in metrics), None)
        if self.trial is not None and name is not None:
            if epoch not in self.reported:  # a run that was killed after its report has reported already
                self.trial.report(float(metrics[name]), epoch)
            is_last = epoch == trainer.max_epochs
            stop = not is_last and (PRUNED in self.trial.user_attrs or self.trial.should_prune())
            if stop:
                self.trial.set_user_attr(PRUNED, True)
        if trainer.strategy.broadcast(stop):
            trainer.should_stop = True
