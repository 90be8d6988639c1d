"""Every access to parts of PyTorch Lightning that its documentation does not promise to keep.

Each definition names the attributes that it touches, the reason, and what Lamella does when a later version of
Lightning has renamed them. Where only speed is at stake, Lamella trains without the shortcut. Where a resumed run
could silently compute something else, Lamella stops with an error.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from operator import attrgetter
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torchmetrics import Metric

from lamella.errors import RequestError

T = TypeVar("T")

# The attribute of a LightningModule that holds the name of the running hook. Lightning sets it some forty times a step,
# and `Task` sets it without the search of nn.Module for parameters. If it is renamed, a step takes longer.
HOOK_NAME = "_current_fx_name"

# How the action ends that a Lightning profiler is told of when a training batch is fetched. If it is renamed, a profile
# counts that time to the rest.
FETCH = ".train_dataloader_next"

# What LoopCounters and batches_until_validation read.
CHUNK_NAMES = (
    "val_check_batch",
    "fit_loop.total_batch_idx",
    "fit_loop._data_fetcher.fetched",
    "fit_loop._data_fetcher.length",
    "fit_loop._data_fetcher.done",
    "fit_loop.epoch_loop._batches_that_stepped",
    "fit_loop.epoch_loop._should_accumulate",
    "fit_loop.epoch_loop.update_lr_schedulers",
    "fit_loop.epoch_loop.batch_progress.increment_started",
    "fit_loop.epoch_loop.batch_progress.is_last_batch",
    "fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.increment_ready",
    "fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.zero_grad.current.started",
)
# What `resume_from`, `begin_resumed_epoch` and `continue_resumed_epoch` change.
RESUME_NAMES = (
    "fit_loop._restarting",
    "fit_loop.epoch_loop.restarting",
    "fit_loop.epoch_loop._batches_that_stepped",
)

# The arguments of `self.log` that a checkpoint keeps, and the reductions, of which it keeps the number.
LOGGED = ("fx", "name", "prog_bar", "logger", "on_step", "on_epoch", "enable_graph")
REDUCTIONS = (torch.mean, torch.sum, torch.max, torch.min, sum, max, min)


def batch_index(trainer: pl.Trainer) -> int:
    """Return the number of the training batch within its epoch, counted from 0, or -1 before the first one.

    Touches `trainer.fit_loop.batch_idx`. Without it no run can be trained.
    """
    return trainer.fit_loop.batch_idx


def missing_for_chunks(trainer: pl.Trainer) -> str | None:
    """Return the first attribute that chunks need and this version of Lightning lacks, None if it has all of them.

    Can be called once the training has begun. Where an attribute is missing, the chunks become single batches.
    """
    return _missing(trainer, CHUNK_NAMES)


def batches_until_validation(trainer: pl.Trainer, number: int) -> float:
    """Return how many batches, beginning with batch `number` of the epoch, come before the next validation.

    The value is infinite where only the end of the epoch is followed by a validation. Touches
    `trainer.val_check_batch` and `trainer.fit_loop.total_batch_idx`; see `missing_for_chunks`.
    """
    interval = trainer.val_check_batch
    if interval is None or interval == math.inf:
        return math.inf
    done = number if trainer.check_val_every_n_epoch else trainer.fit_loop.total_batch_idx + 1
    return interval - done % interval


class LoopCounters:
    """Counts the batches and steps of a chunk in Lightning's training loop, as the loop itself would have counted them.

    The methods touch the attributes in CHUNK_NAMES, because `global_step`, loggers, schedulers and checkpoints go by
    them; see `missing_for_chunks`. `accumulates` returns True if the running batch is followed by no optimizer step.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        fetcher = trainer.fit_loop._data_fetcher
        assert fetcher is not None
        self._fetcher, self._epoch = fetcher, trainer.fit_loop.epoch_loop
        self._batches = self._epoch.batch_progress
        self._optimizer = self._epoch.automatic_optimization.optim_progress.optimizer
        self.accumulates: Callable[[], bool] = self._epoch._should_accumulate

    def begin_batch(self) -> None:
        """Count a batch that is about to be trained."""
        self._batches.increment_started()

    def count_zero_grad(self) -> None:
        """Count one call of `optimizer.zero_grad`."""
        progress = self._optimizer.zero_grad
        progress.increment_ready()
        progress.increment_started()
        progress.increment_completed()

    def count_step(self) -> None:
        """Count one call of `optimizer.step`."""
        self._optimizer.step.increment_ready()
        self._optimizer.step.increment_completed()
        self._epoch._batches_that_stepped += 1

    def end_batch(self) -> None:
        """Count a batch that has been trained, step the schedulers that go by steps, and begin the next batch."""
        batches = self._batches
        batches.increment_processed()
        self._epoch.update_lr_schedulers("step", update_plateau_schedulers=False)
        batches.increment_completed()
        batches.increment_ready()
        self._fetcher.fetched += 1

    def end_chunk(self, last: int, accumulated: int) -> None:
        """Prepare the loop for the last batch of the chunk, number `last` of the epoch, which Lightning trains itself.

        accumulated: the number of batches of an optimizer step.
        """
        if last % accumulated:
            # Lightning was given the number of the chunk's first batch, and will count one zero_grad too many.
            for counts in map(vars, (self._optimizer.zero_grad.current, self._optimizer.zero_grad.total)):
                counts |= {name: count - 1 for name, count in counts.items()}
        fetcher = self._fetcher
        fetcher.done = self._batches.is_last_batch = fetcher.length is not None and fetcher.fetched >= fetcher.length


def resume_from(trainer: pl.Trainer, checkpoint: dict[str, Any], epochs: int, batches: int) -> int:
    """Move the loop counters in a checkpoint to the boundary after `epochs` epochs and `batches` batches of the next.

    Lightning saves its counters in the middle of a batch, so it would repeat or skip work. Returns the number of
    batches that were followed by an optimizer step. Touches the layout of `checkpoint["loops"]["fit_loop"]`. Raises
    RequestError, which names Lightning's version, where the layout or an attribute in RESUME_NAMES is another one.
    """
    if name := _missing(trainer, RESUME_NAMES):
        raise _cannot_resume(f"its Trainer has no {name}")
    try:
        loops = checkpoint["loops"]["fit_loop"]
        stepped = int(loops["epoch_loop.state_dict"]["_batches_that_stepped"])
        progress = loops["epoch_loop.batch_progress"]
        _set_counts(progress["current"], batches)
        _set_counts(progress["total"], progress["total"]["completed"])
        progress["is_last_batch"] = False
        if not batches:
            _set_counts(loops["epoch_progress"]["current"], epochs)
            _set_counts(loops["epoch_progress"]["total"], epochs)
    except (KeyError, TypeError) as error:
        raise _cannot_resume(f"the loops in the checkpoint have another layout ({error})") from error
    return stepped


def begin_resumed_epoch(trainer: pl.Trainer) -> None:
    """Tell the training loop that the epoch after the checkpoint begins with its first batch.

    Touches `epoch_loop.restarting`: where `max_steps` limits the run, Lightning would treat a finished epoch as one
    that was left in the middle. `resume_from` has checked that the attribute exists.
    """
    trainer.fit_loop.epoch_loop.restarting = False


def continue_resumed_epoch(trainer: pl.Trainer, stepped: int) -> None:
    """Set the number of optimizer steps by which loggers go, and end the training loop's special case of a restart.

    Touches `epoch_loop._batches_that_stepped`, which Lightning has just counted up once too often where a validation
    came before the checkpoint, and `fit_loop._restarting`, because of which Lightning would leave out the step of a
    plateau scheduler at the end of this epoch. `resume_from` has checked that the attributes exist.
    """
    trainer.fit_loop.epoch_loop._batches_that_stepped = stepped
    trainer.fit_loop._restarting = False


def restore_callback_metrics(trainer: pl.Trainer, metrics: Mapping[str, float]) -> None:
    """Put the metrics of a checkpoint into `trainer.callback_metrics`, where an epoch without validation reads them.

    Relies on the property giving the Trainer's own dictionary. Raises RequestError where it gives a copy.
    """
    trainer.callback_metrics.update({name: torch.tensor(value, dtype=torch.float64) for name, value in metrics.items()})
    if not metrics.keys() <= trainer.callback_metrics.keys():
        raise _cannot_resume("its Trainer takes no callback_metrics")


def logged_values(trainer: pl.Trainer) -> dict[str, float]:
    """Return what the LightningModule has logged since the running epoch, validation or test began, by name.

    A value that is logged for each step alone is that of the last step. `trainer.callback_metrics` would mix them with
    those of other stages. Touches `trainer._results` and its items; without it, such a module cannot be trained.
    """
    results: Any = trainer._results
    values = {
        one.meta.name: results._get_cache(one, False) if one.meta.on_epoch else one._forward_cache
        for one in results.values()
        if not one.has_reset
    }
    return {name: float(value) for name, value in values.items() if value is not None}


def logged_state(trainer: pl.Trainer) -> list[tuple[dict[str, Any], dict[str, torch.Tensor]]]:
    """Return the arguments and the state of each `self.log` of the unfinished epoch, which Lightning does not save.

    Metrics of torchmetrics are left out. Touches `fit_loop.epoch_loop._results` and its items.
    """
    found = []
    for one in trainer.fit_loop.epoch_loop._results.values():
        if one.is_tensor and not one.has_reset and one.meta.sync.group is None:
            arguments = {name: getattr(one.meta, name) for name in LOGGED}
            arguments |= {"sync_dist": one.meta.sync.should, "rank_zero_only": one.meta.sync.rank_zero_only}
            state = {name: getattr(one, name, None) for name in ("value", "cumulated_batch_size", "_forward_cache")}
            kept = {name: value.cpu() for name, value in state.items() if value is not None}
            found.append(({**arguments, "reduce_fx": REDUCTIONS.index(one.meta.reduce_fx)}, kept))
    return found


def restore_logged(trainer: pl.Trainer, logged: list[tuple[dict[str, Any], dict[str, torch.Tensor]]]) -> None:
    """Put back what `logged_state` has returned, before the first batch of the resumed epoch.

    Touches `_logger_connector._first_loop_iter`: what is logged in the first batch of a Trainer replaces what is there.
    """
    trainer._logger_connector._first_loop_iter = False
    results, reduce = trainer.fit_loop.epoch_loop._results, trainer.strategy.reduce
    for arguments, state in logged:
        # The next `self.log` has to have the same arguments.
        given = {**arguments, "reduce_fx": REDUCTIONS[arguments["reduce_fx"]], "sync_dist_fn": reduce}
        results.log(value=torch.zeros(()), batch_size=1, **given)
        vars(results[f"{arguments['fx']}.{arguments['name']}"]).update(state)


def set_update_count(metric: Metric, count: int) -> None:
    """Set how often a metric of torchmetrics has been updated, on which means over its updates depend.

    Touches `_update_count`, which has no public setter. If it is gone, such a mean is wrong after a resume.
    """
    metric._update_count = count


def datamodule_key(datamodule: type[pl.LightningDataModule]) -> str:
    """Return the key under which Lightning saves the state of a datamodule in a checkpoint: the name of its class.

    The rule is Lightning's. If Lightning used another key, Lamella could not compare the samples and would refuse to
    resume the run.
    """
    return datamodule.__qualname__


@contextmanager
def trainer_precision(trainer: pl.Trainer, inputs: T) -> Iterator[T]:
    """Run a block as the Trainer runs a forward pass, and yield `inputs` converted to the Trainer's precision.

    Touches `convert_input` and `forward_context` of `trainer.precision_plugin`. If one is gone, the block fails.
    """
    converted: T = trainer.precision_plugin.convert_input(inputs)
    with trainer.precision_plugin.forward_context():
        yield converted


def close_tensorboard(logger: TensorBoardLogger) -> None:
    """End the thread of the logger's SummaryWriter, if the logger has opened one.

    Touches `_experiment`, because reading the public `experiment` would open a writer and an events file. If the
    attribute is gone, the thread ends with the process; the events have been flushed before.
    """
    writer = getattr(logger, "_experiment", None)
    if writer is not None:
        writer.close()


def _missing(trainer: pl.Trainer, names: tuple[str, ...]) -> str | None:
    for name in names:
        try:
            attrgetter(name)(trainer)
        except AttributeError:
            return name
    return None


def _set_counts(counts: dict[str, int], count: int) -> None:
    counts |= dict.fromkeys(counts, count)


def _cannot_resume(reason: str) -> RequestError:
    return RequestError(
        f"this run cannot be resumed with pytorch-lightning {version('pytorch-lightning')}: {reason}; "
        "install a version that Lamella supports, or begin a new run with `lamella train`"
    )
