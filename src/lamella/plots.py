"""Diagrams in files, drawn by matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lamella.errors import RequestError, first_line


def curves(runs: Mapping[str, Sequence[Mapping[str, Any]]], file: Path) -> None:
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
