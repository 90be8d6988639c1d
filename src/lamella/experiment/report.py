"""The lines that a run prints about its epochs and its result."""

import os
from collections.abc import Mapping
from pathlib import Path

from lamella.runs.schema import Usage, WeightsKind


def epoch_line(metrics: Mapping[str, float], epochs: int | None) -> str:
    """Return the line of an epoch: `epoch  3/10  train loss 0.1234 accuracy 0.9612  val loss …  1.2 s`.

    epochs: the number of all epochs, None where it is not known.
    """
    count = f"{int(metrics['epoch']):>{len(str(epochs))}}/{epochs}" if epochs else f"{int(metrics['epoch'])}"
    stages = [_stage(stage, metrics) for stage in ("train", "val")]
    return "  ".join([f"epoch {count}", *filter(None, stages), f"{metrics['seconds']:.1f} s"])


def result_lines(
    best_epoch: int,
    epochs: int,
    metrics: Mapping[str, float],
    path: Path,
    stopped: str | None = None,
    weights: WeightsKind = "trained",
    usage: Usage | None = None,
) -> str:
    """Return the result of a run, its directory, and the command that shows its curves, each on a line.

    stopped: why the run ended before its last epoch, None for all other runs. weights: those of the best epoch. usage:
    of the machine, None where it was not measured.
    """
    rows = {"stopped": f"after epoch {epochs} ({stopped})"} if stopped else {}
    rows |= {
        "best epoch": f"{best_epoch} of {epochs}  {_stage('val', metrics) or _stage('train', metrics)}",
        "weights": "averaged" if weights == "averaged" else "",
        "test": _stage("test", metrics).removeprefix("test "),
        "machine": _use(usage) if usage else "",
        "directory": str(path),
        "curves": f"lamella board {path.parts[0] if path.parts else path}",
    }
    return "\n".join(f"{name:<12}{value}" for name, value in rows.items() if value)


def _use(usage: Usage) -> str:
    """Return what a run has used of the machine: `1.9 of 2 cores, at most 0.61 GB of memory`."""
    gpu = f", the GPU {usage['gpu_percent']['mean']:.0f}% of the time" if "gpu_percent" in usage else ""
    cores, memory = usage["cores"]["mean"], usage["memory_gb"]["peak"]
    return f"{cores:.1f} of {os.cpu_count()} cores, at most {memory:.2f} GB of memory{gpu}"


def _stage(stage: str, metrics: Mapping[str, float]) -> str:
    """Return the metrics of "train", "val" or "test" as text, empty where there are none."""
    values = {name.partition("/")[2]: value for name, value in metrics.items() if name.startswith(f"{stage}/")}
    return f"{stage} " + " ".join(f"{name} {value:.4f}" for name, value in values.items()) if values else ""
