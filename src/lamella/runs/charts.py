"""Diagrams in files, drawn by matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lamella.atomic_files import replacing
from lamella.errors import RequestError, first_line

FEW = 10  # values of a swept key that can be told apart


def plot_curves(runs: Mapping[str, Sequence[Mapping[str, Any]]], file: Path) -> None:
    """The learning curves of runs over each other: a chart for each metric, training dashed, validation solid.

    runs: by name, what each has written an epoch. Raises RequestError where the file cannot be drawn.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RequestError("--plot takes matplotlib; pip install lamella[plot]") from error
    names = dict.fromkeys(
        key.partition("/")[2] for lines in runs.values() for line in lines for key in line if "/" in key
    )
    if not names:
        raise RequestError("--plot: none of the runs has finished an epoch")
    figure = Figure(figsize=(6 * len(names), 4.5), layout="constrained")
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    for axis, name in zip(axes, names, strict=True):
        for number, (run, lines) in enumerate(runs.items()):
            for stage, style in (("val", "-"), ("train", "--")):
                points = [(line["epoch"], line[f"{stage}/{name}"]) for line in lines if f"{stage}/{name}" in line]
                if points:
                    label = run if stage == "val" else None
                    axis.plot(
                        *zip(*points, strict=True),
                        style,
                        color=f"C{number % 10}",
                        label=label,
                        marker=".",
                        markersize=4,
                    )
        axis.set_xlabel("epoch")
        axis.set_title(name)
        axis.grid(alpha=0.3)
        axis.xaxis.get_major_locator().set_params(integer=True)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=1, frameon=False, title="validation solid, training dashed"
    )
    known = figure.canvas.get_supported_filetypes()
    if file.suffix.lstrip(".") not in known:
        raise RequestError(f"--plot {file}: its ending says the format: {', '.join(f'.{name}' for name in known)}")
    try:
        figure.savefig(file, dpi=120)
    except (OSError, ValueError) as error:
        raise RequestError(f"--plot {file}: {first_line(error)}") from error


def plot_against(points: Mapping[str, Sequence[tuple[Any, Sequence[float]]]], metric: str, file: Path) -> None:
    """A metric against each swept key: a chart for each, members as points, the means of equal values as a line.

    points: by key, a value of it and the metric of the members that have it. Raises RequestError where matplotlib is
    not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RequestError(f"{file.name} takes matplotlib; pip install lamella[plot]") from error
    figure = Figure(figsize=(4.5 * len(points), 3.8), layout="constrained")
    axes = figure.subplots(1, len(points), squeeze=False, sharey=True)[0]
    for axis, (key, found) in zip(axes, points.items(), strict=True):
        values: dict[Any, list[float]] = {}
        for value, scores in found:
            values.setdefault(value, []).extend(scores)
        numbers = all(isinstance(value, int | float) for value in values)
        order = sorted(values) if numbers else sorted(values, key=str)
        places = order if numbers else list(range(len(order)))
        for place, value in zip(places, order, strict=True):
            axis.plot([place] * len(values[value]), values[value], "o", color="C0", alpha=0.5, markersize=5)
        means = [(place, sum(v) / len(v)) for place, v in zip(places, (values[one] for one in order), strict=True) if v]
        if means and len(means) <= FEW:  # through the many values of a search it would show noise
            axis.plot(*zip(*means, strict=True), "-", color="C0")
        if numbers and len(order) > 2 and order[0] > 0 and order[-1] / order[0] >= 50:
            axis.set_xscale("log")
        if not numbers or len(order) <= FEW:
            axis.set_xticks(places, [f"{value:g}" if numbers else str(value) for value in order])
            axis.minorticks_off()
        axis.set_xlabel(key)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(metric)
    with replacing(file) as temporary:
        figure.savefig(temporary, format=file.suffix.lstrip("."), dpi=120)
