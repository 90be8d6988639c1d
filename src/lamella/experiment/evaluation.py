"""Test a trained network: loss, metric, and for classes how often each is taken for each."""

from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.data import extract_batch_size
from torch import Tensor

from lamella.data.chunk import Batch
from lamella.errors import RequestError
from lamella.experiment.experiment import Experiment
from lamella.experiment.intervals import Interval, confidence_intervals
from lamella.training.objective import Objective
from lamella.training.own_module import defines
from lamella.training.sample_metrics import SampleMetrics
from lamella.training.trainer import quiet_lightning


@dataclass(frozen=True)
class Evaluation:
    """The result of a test.

    metrics: test/loss, and test/accuracy or test/mae. samples: the number of samples. confusion: how often each
    class was predicted for each true class (K, K); rows are true, columns predicted. None where the targets are no
    classes. counts: the true positives, the predictions and the occurrences of each class or label (3, K). None where
    the targets are numbers. intervals: the 95 % intervals over the samples, by the names of the metrics that are means
    over the samples. masks: whether the targets are a class for each pixel.
    """

    metrics: dict[str, float]
    samples: int
    confusion: Tensor | None
    counts: Tensor | None
    intervals: dict[str, Interval]
    masks: bool = False

    def scores(self) -> list[dict[str, float | None]]:
        """Return precision, recall, f1 and support (the number of samples) of each class or label.

        Of masks, the samples are pixels, and the intersection over union, iou, is added: the pixels that are of the
        class and predicted as it, by those that are one or the other. The scores of a class without any sample are
        None, and those of a class that is never predicted are 0. The list is empty where the targets are numbers.
        """
        if self.counts is None:
            return []
        right, predicted, actual = self.counts.double()
        columns = {
            "precision": right / predicted.clamp(min=1),
            "recall": right / actual.clamp(min=1),
            "f1": 2 * right / (predicted + actual).clamp(min=1),
            **({"iou": right / (predicted + actual - right).clamp(min=1)} if self.masks else {}),
            "support": actual,
        }
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        scores = [dict(zip(columns, row, strict=True)) for row in rows]
        return [row if row["support"] else {**dict.fromkeys(row), "support": 0.0} for row in scores]


class _AnswerCounter(pl.Callback):
    """Counts the answers of each test batch on the device, without reading a value before the end."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.confusion: Tensor | None = None
        self.counts: Tensor | None = None
        self.samples = 0

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.samples += extract_batch_size(batch)
        if not isinstance(outputs, Tensor) or not isinstance(batch, tuple):  # a task of one's own may give none
            return
        targets = batch[1]
        if self.objective.kind == "classes":
            pairs = self.objective.confusion(outputs, targets)
            self.confusion = pairs if self.confusion is None else self.confusion + pairs
        elif self.objective.kind == "labels":
            # (B, labels, positions): the labels are in the second dimension, which a single label may lack.
            predicted, actual = (one.reshape(len(one), *one.shape[1:2], -1) for one in (outputs > 0, targets > 0.5))
            counts = torch.stack([one.sum((0, -1)).reshape(-1) for one in (predicted & actual, predicted, actual)])
            self.counts = counts if self.counts is None else self.counts + counts


def evaluate(experiment: Experiment, directory: Path) -> Evaluation:
    """Test the network with its present weights, in the way in which a run tests its best checkpoint.

    directory: where Lightning would write files. It has none to write. Raises RequestError where the LightningModule of
    the run has no test.
    """
    if not defines(experiment.kind.made, "test_step"):
        raise RequestError(f"{directory}: {experiment.kind.title} has no test_step, so it cannot be tested")
    answers, is_task = _AnswerCounter(experiment.objective), experiment.kind.is_task
    samples = SampleMetrics(experiment.objective, is_task and experiment.task.has_own_step)
    with quiet_lightning():
        trainer = experiment.trainer(
            [answers, *([samples] if is_task else [])],
            experiment.callbacks([]),
            [],
            default_root_dir=str(directory),
            log_every_n_steps=0,
        )
        [logged] = trainer.test(experiment.module, datamodule=experiment.data, verbose=False)
    confusion, counts = answers.confusion, answers.counts
    if confusion is not None:
        counts = torch.stack([confusion.diagonal(), confusion.sum(0), confusion.sum(1)])
    return Evaluation(
        metrics=experiment.test_metrics(logged),
        samples=answers.samples,
        confusion=None if confusion is None else confusion.cpu(),
        counts=None if counts is None else counts.cpu(),
        intervals={f"test/{name}": one for name, one in confidence_intervals(samples.test, samples.weights).items()},
        masks=experiment.data.has_masks,
    )
