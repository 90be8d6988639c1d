"""The result of a run so far, as fields of its record."""

from collections.abc import Mapping
from typing import NotRequired, TypedDict

import pytorch_lightning as pl

from lamella.runs.schema import WeightsKind
from lamella.training.checkpointing import Checkpoints
from lamella.training.compiled_steps import CompiledSteps


class Outcome(TypedDict):
    """The result of a run so far, as fields of its record.

    metrics: `train/…` and `val/…` of the best epoch, and after the test `test/…` of its checkpoint. epochs, steps: how
    many are over. stopped: why the run ended before its last epoch, None for all other runs. best_weights: those in
    best.ckpt, once the run is over. compiled: where steps were to be compiled, what came of it.
    """

    metrics: dict[str, float]
    best_epoch: int
    epochs: int
    steps: int
    stopped: str | None
    best_weights: NotRequired[WeightsKind]
    compiled: NotRequired[dict[str, object]]


def reason_to_stop(trainer: pl.Trainer) -> str | None:
    """Return why a run ended before its last epoch, None for a run that was trained to its end."""
    if not trainer.should_stop or trainer.current_epoch == trainer.max_epochs:
        return None
    messages = [one.stopping_reason_message for one in trainer.early_stopping_callbacks]
    # Lightning adds the best score and what it did.
    reasons = [f"EarlyStopping: {message.partition('. ')[0]}" for message in messages if message]
    return "; ".join(reasons) or "a callback has ended it"


def outcome_of(
    checkpoints: Checkpoints,
    compiled: CompiledSteps | None,
    epochs: int,
    steps: int,
    test_metrics: Mapping[str, float] | None = None,
    stopped: str | None = None,
) -> Outcome:
    """Return the result of a run after so many epochs and optimizer steps. compiled: None where no step was to be."""
    metrics = {**checkpoints.metrics, **(test_metrics or {})}
    best = checkpoints.best_epoch
    outcome: Outcome = {
        "metrics": metrics,
        "best_epoch": best,
        "epochs": epochs,
        "steps": steps,
        "stopped": stopped,
    }
    if compiled:
        outcome["compiled"] = {"seconds": compiled.seconds, "failure": compiled.failure}
    return outcome
