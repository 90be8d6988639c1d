"""Draw charts into files with matplotlib."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from lamella.atomic_files import replacing
from lamella.errors import RequestError, first_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEW = 10  # the largest number of values of a swept key that get a tick each and a line through their means
Epochs = Sequence[Mapping[str, float]]  # the lines of a run's metrics.jsonl
Points = Sequence[tuple[object, Sequence[float]]]  # a value of a swept key, and the metrics of the runs that have it


def plot_curves(runs: Mapping[str, Epochs], file: Path) -> None:
    """Draw the learning curves of runs over each other: a chart for each metric, training dashed, validation solid.

    runs: the epochs of each run, by the name in the legend. Raises RequestError where no run has finished an epoch, or
    where the file cannot be drawn.
    """
    figure = _figure("--plot")
    metrics = dict.fromkeys(
        key.partition("/")[2] for epochs in runs.values() for line in epochs for key in line if "/" in key
    )
    if not metrics:
        raise RequestError("--plot: none of the runs has finished an epoch")
    figure.set_size_inches(6 * len(metrics), 4.5)
    axes = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axis, metric in zip(axes, metrics, strict=True):
        _draw_curves(axis, runs, metric)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=1, frameon=False, title="validation solid, training dashed"
    )
    _save(figure, file)


def plot_against(points: Mapping[str, Points], metric: str, file: Path) -> None:
    """Draw a metric against each swept key: a chart for each key, with a point for each run of the sweep.

    points: by key. Raises RequestError where matplotlib is not installed.
    """
    figure = _figure(file.name)
    figure.set_size_inches(4.5 * len(points), 3.8)
    axes = figure.subplots(1, len(points), squeeze=False, sharey=True)[0]
    for axis, (key, key_points) in zip(axes, points.items(), strict=True):
        _draw_against(axis, key, key_points)
    axes[0].set_ylabel(metric)
    _write(figure, file)


def plot_rates(
    rates: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], best: float | None, file: Path
) -> None:
    """Draw the loss against rising learning rates, and a line at the best one.

    losses, smoothed: of the step with each rate. Raises RequestError where the file cannot be drawn.
    """
    figure = _figure("--plot")
    figure.set_size_inches(6, 4)
    axis = figure.subplots()
    axis.plot(rates, losses, ".", color="C0", alpha=0.4, markersize=4, label="loss of a step")
    axis.plot(rates, smoothed, "-", color="C0", label="smoothed")
    if best is not None:
        axis.axvline(best, color="C1", label=f"{best:.1e}")
    axis.set_xscale("log")
    axis.set_xlabel("learning rate")
    axis.set_ylabel("loss")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    _save(figure, file)


def check_picture(file: Path) -> None:
    """Raise RequestError where `--plot` names a file that cannot be drawn."""
    endings = _figure("--plot").canvas.get_supported_filetypes()
    if file.suffix.lstrip(".") not in endings:
        raise RequestError(
            f"--plot {file}: the name has to end in a known format: {', '.join(f'.{name}' for name in endings)}"
        )
    if not file.parent.is_dir():
        raise RequestError(f"--plot {file}: there is no folder {file.parent}")


def can_plot() -> bool:
    """Return whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def _figure(option: str) -> "Figure":
    """Return an empty figure. Raises RequestError, which names the option, where matplotlib is not installed."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RequestError(f"{option} needs matplotlib; uv pip install -e '.[plot]'") from error
    # Forget the settings in a file `matplotlibrc` of the working directory, which could let LaTeX run its text.
    matplotlib.rcdefaults()
    return Figure(layout="constrained")


def _draw_curves(axis: "Axes", runs: Mapping[str, Epochs], metric: str) -> None:
    """Draw the values of a metric by epoch, in a colour for each run."""
    from matplotlib.ticker import MaxNLocator

    for number, (run, epochs) in enumerate(runs.items()):
        for stage, style in (("val", "-"), ("train", "--")):
            key = f"{stage}/{metric}"
            points = [(line["epoch"], line[key]) for line in epochs if key in line]
            if points:
                axis.plot(
                    *zip(*points, strict=True),
                    style,
                    color=f"C{number % 10}",
                    label=run if stage == "val" else None,
                    marker=".",
                    markersize=4,
                )
    axis.set_xlabel("epoch")
    axis.set_title(metric)
    axis.grid(alpha=0.3)
    locator = axis.xaxis.get_major_locator()
    assert isinstance(locator, MaxNLocator)
    locator.set_params(integer=True)


def _save(figure: "Figure", file: Path) -> None:
    """Write a figure in the format of the file's ending. Raises RequestError where that is not possible."""
    check_picture(file)
    try:
        _write(figure, file)
    except (OSError, ValueError) as error:
        raise RequestError(f"--plot {file}: {first_line(error)}") from error


def _write(figure: "Figure", file: Path) -> None:
    """Write a figure in the format of the file's ending, completely or not at all."""
    with replacing(file) as temporary:
        figure.savefig(temporary, format=file.suffix.lstrip("."), dpi=120)


def _draw_against(axis: "Axes", key: str, points: Points) -> None:
    """Draw the metric of each run against its value of a key, and a line through the means of equal values.

    Values that are numbers lie on a scale, logarithmic where they span a wide range. Other values lie side by side.
    """
    by_value: dict[object, list[float]] = {}
    for value, scores in points:
        by_value.setdefault(value, []).extend(scores)
    numbers = sorted(value for value in by_value if isinstance(value, int | float))
    are_numbers = len(numbers) == len(by_value)
    values: Sequence[object] = numbers if are_numbers else sorted(by_value, key=str)
    positions = numbers if are_numbers else list(range(len(values)))
    for position, value in zip(positions, values, strict=True):
        axis.plot([position] * len(by_value[value]), by_value[value], "o", color="C0", alpha=0.5, markersize=5)
    all_scores = [(position, by_value[value]) for position, value in zip(positions, values, strict=True)]
    means = [(position, sum(scores) / len(scores)) for position, scores in all_scores if scores]
    if means and len(means) <= FEW:  # a line through the many values of a search would show noise
        axis.plot(*zip(*means, strict=True), "-", color="C0")
    if are_numbers and len(numbers) > 2 and numbers[0] > 0 and numbers[-1] / numbers[0] >= 50:
        axis.set_xscale("log")
    if not are_numbers or len(values) <= FEW:
        axis.set_xticks(positions, [f"{value:g}" if are_numbers else str(value) for value in values])
        axis.minorticks_off()
    axis.set_xlabel(key)
    axis.grid(alpha=0.3)
