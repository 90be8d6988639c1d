"""What a trained network makes of the test samples: loss, metric, and for classes who is taken for whom."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lamella.experiment.experiment import Experiment
from lamella.training.losses import LABELS
from lamella.training.metrics import confusion_counts
from lamella.training.trainer import quiet_lightning


@dataclass(frozen=True)
class Evaluation:
    """metrics: test/loss and test/accuracy or test/mae.

    samples: how many. confusion: counts (K, K), a row for each true class and a column for each predicted one. counts:
    for each class or label how many are rightly found, found and there (3, K). Both None where there are none.
    """

    metrics: dict[str, float]
    samples: int
    confusion: Tensor | None
    counts: Tensor | None

    def scores(self) -> list[dict[str, float]]:
        """precision, recall, f1 and support (how many there are) of each class; 0 where nothing was found."""
        if self.counts is None:
            return []
        right, found, there = self.counts.double()
        columns = {
            "precision": right / found.clamp(min=1),
            "recall": right / there.clamp(min=1),
            "f1": 2 * right / (found + there).clamp(min=1),
            "support": there,
        }
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        return [dict(zip(columns, row, strict=True)) for row in rows]


class _Answers(pl.Callback):
    """Counts what is taken for what, on the device, and reads nothing before the end."""

    def __init__(self) -> None:
        self.confusion: Tensor | None = None
        self.counts: Tensor | None = None

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        targets = batch[1]
        if targets.dtype == torch.int64:
            pairs = confusion_counts(outputs, targets)
            self.confusion = pairs if self.confusion is None else self.confusion + pairs
        elif isinstance(pl_module.loss, LABELS):
            found, there = outputs > 0, targets > 0.5
            counts = torch.stack([(found & there).sum(0), found.sum(0), there.sum(0)])
            self.counts = counts if self.counts is None else self.counts + counts


def evaluate(experiment: Experiment, directory: Path) -> Evaluation:
    """Test the network as its weights are, in the way in which a run tests its best checkpoint.

    directory: where Lightning would write, though it has nothing to.
    """
    experiment.device.configure_process()
    answers = _Answers()
    with quiet_lightning():
        trainer = experiment.trainer(answers, [], [], default_root_dir=str(directory), log_every_n_steps=0)
        [metrics] = trainer.test(experiment.task, datamodule=experiment.data, verbose=False)
    confusion, counts = answers.confusion, answers.counts
    if confusion is not None:
        counts = torch.stack([confusion.diagonal(), confusion.sum(0), confusion.sum(1)])
    numbers = {name: value for name, value in metrics.items() if name.startswith("test/")}
    moved = [value if value is None else value.cpu() for value in (confusion, counts)]
    return Evaluation(numbers, len(experiment.data.test), *moved)
