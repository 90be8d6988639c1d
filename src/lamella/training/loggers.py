"""Hand the metrics of each epoch to a function and to TensorBoard."""

from collections.abc import Callable, Mapping, Sequence

from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only
from torch.utils.tensorboard.summary import hparams

from lamella.lightning_internals import close_tensorboard
from lamella.torch_internals import add_summary
from lamella.training.machine_use import UsePoint


class EpochLogger(Logger):
    """A logger that calls `on_epoch` on rank 0 with the metrics of each epoch, and the epoch's number as "epoch"."""

    name, version = "epochs", ""

    def __init__(self, on_epoch: Callable[[dict[str, float]], None]) -> None:
        super().__init__()
        self.on_epoch = on_epoch

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if "seconds" in metrics:  # the test has none
            self.on_epoch({"epoch": int(step or 0), **metrics})

    @rank_zero_only
    def log_hyperparams(self, params: object, *args: object, **kwargs: object) -> None:
        """Do nothing, because the run directory holds the config."""


class EpochTensorBoard(TensorBoardLogger):
    """A TensorBoard logger that writes one events file into the run directory, and no other file.

    of_task: whether a `Task` is trained, which hands over the metrics of an epoch through Lightning. Of any other
    module, Lightning writes each value as it was logged, and the epoch's metrics come from `OwnModule`.
    """

    def __init__(self, directory: str, of_task: bool = True) -> None:
        super().__init__(directory, name="", version="", default_hp_metric=False)
        self.of_task = of_task

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write the metrics of an epoch, and after the first epoch the layout of charts.

        A resumed run does not write the layout again.
        """
        if not self.of_task and "epoch" in metrics:  # which Lightning adds
            return
        if step == 1 and "seconds" in metrics:
            names = dict.fromkeys(name.partition("/")[2] for name in metrics if name.startswith(("train/", "val/")))
            layout = {name: ["Multiline", [f"train/{name}", f"val/{name}"]] for name in names}
            self.experiment.add_custom_scalars({"epoch": layout})
        # TensorBoard sorts charts by name, and the curves of losses and metrics are to come first. The test, which is a
        # single point, is among the metrics of the best epoch.
        named = {name if "/" in name else f"while_training/{name}": value for name, value in metrics.items()}
        super().log_metrics({name: value for name, value in named.items() if not name.startswith("test/")}, step)

    @rank_zero_only
    def log_hyperparams(self, params: object, *args: object, **kwargs: object) -> None:
        """Do nothing: TensorBoard would show a run that has hyperparameters but no metrics as -1."""

    @rank_zero_only
    def log_machine(self, points: Sequence[UsePoint]) -> None:
        """Write points as `machine/…`, each at its second of the run.

        They are written at the end of an epoch, by the thread that trains: a checkpoint records the size of the file,
        which has to end with a whole entry.
        """
        for point in points:
            for name, value in point.values.items():
                self.experiment.add_scalar(f"machine/{name}", value, int(point.second), point.ended)

    @rank_zero_only
    def log_result(self, settings: Mapping[str, float | str], metrics: Mapping[str, float], epoch: int) -> None:
        """Write the settings of a run, for the tab HPARAMS, and its best metrics, at `epoch`, as `when_best/…`.

        No description of the experiment is written: TensorBoard would show only the columns that the first run
        describes, and refuse filters on the others. Without one, it shows the settings and metrics of all runs.
        """
        _, start, end = hparams(dict(settings), {})  # type: ignore[no-untyped-call]
        for summary in (start, end):
            add_summary(self.experiment, summary, epoch)
        super().log_metrics({f"when_best/{name}": value for name, value in metrics.items()}, epoch)

    @rank_zero_only
    def save(self) -> None:
        """Write what has been logged to the file."""
        self.experiment.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what has been logged to the file. The file stays open for the test, which follows the training."""
        self.experiment.flush()

    def close(self) -> None:
        """End the thread that writes the events file."""
        close_tensorboard(self)
