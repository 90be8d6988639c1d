"""lamella export RUN --format onnx|pt2|safetensors: the network for other runtimes, checked against the original.

lamella export outputs/default/defaults --format onnx
lamella export outputs/default/defaults --format pt2 --out network.pt2
"""

import argparse
import io
import json
import logging
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamella.config.overrides import config_for_testing
from lamella.errors import RequestError, first_line
from lamella.runs.reader import read_run, unfinished_note

if TYPE_CHECKING:
    from torch import Tensor

    from lamella.data import Data
    from lamella.experiment.experiment import Experiment

IMAGES = ": grey (1 channel) or RGB, resized (bilinear, antialiased), (pixel / 255 - mean) / std of each channel"
LARGEST = 1e-4  # difference that is let through
SAMPLES = 1000


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("lamella export", description="The network for other runtimes, checked.")
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory")
    parser.add_argument("overrides", metavar="OVERRIDE", nargs="*", help="of data, with which the file is checked")
    parser.add_argument("--format", choices=["onnx", "pt2", "safetensors"], required=True)
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: RUN/network.FORMAT")
    parser.add_argument("--checkpoint", default="best", metavar="best|last|PATH", help="default: best")
    options = parser.parse_intermixed_args(arguments)
    fields, config = read_run(options.run)
    config = config_for_testing(fields, config, [*options.overrides, "device.accelerator=cpu"])
    if note := unfinished_note(fields):
        print(note, file=sys.stderr)
    out: Path = options.out or options.run / f"network.{options.format}"
    if not out.absolute().parent.is_dir() or out.is_dir():
        problem = "this is a directory" if out.is_dir() else f"there is no directory {out.parent}"
        raise RequestError(f"--out {out}: {problem}")
    if out.suffix != f".{options.format}":
        raise RequestError(f"--out {out}: its ending says the format, here .{options.format}")

    import torch

    from lamella.experiment.build import build_experiment, build_network
    from lamella.experiment.export_formats import FORMATS
    from lamella.network.eval_mode import eval_mode
    from lamella.runs.checkpoints import find_checkpoint, restore_weights

    write, read = FORMATS[options.format]
    experiment = build_experiment(config)
    restore_weights(experiment.task, find_checkpoint(options.run, options.checkpoint))
    network, data = experiment.task.network, experiment.data
    other, *_ = build_network(config)
    metadata = _metadata(experiment, config["data"])
    differences: list[Tensor] = []
    with tempfile.TemporaryDirectory(dir=out.absolute().parent) as folder, eval_mode(network), eval_mode(other):
        logging.disable(logging.WARNING)
        made = Path(folder) / out.name
        try:
            # torch's exporters talk about themselves, and print the whole program where they fail.
            with warnings.catch_warnings(), redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                write(
                    network, next(iter(data.test_dataloader()))[0][:1].repeat(2, *[1] * len(data.shape)), made, metadata
                )
                run = read(made, other)
                for inputs in _batches(data):
                    differences += (run(inputs) - network(inputs)).abs().flatten(1).amax(1)
        except ImportError as error:
            raise RequestError(f"--format {options.format} takes {error.name}; pip install lamella[export]") from error
        except Exception as error:
            cause: BaseException = error
            while cause.__cause__:
                cause = cause.__cause__
            print(f"error: this network cannot be exported as {options.format}: {first_line(cause)}", file=sys.stderr)
            return 1
        finally:
            logging.disable(logging.NOTSET)
        count, largest = len(differences), float(torch.stack(differences).max())
        if not largest <= LARGEST:  # nor where it is no number
            print(
                f"error: {options.format}: the file gives other values, by up to {largest:.1e} for {count:,} test "
                f"samples, where {LARGEST:.0e} is let through; nothing is written",
                file=sys.stderr,
            )
            return 1
        for file in sorted(Path(folder).iterdir()):  # weights of more than 2 GB have a file of their own
            shutil.copymode(options.run / "config.yaml", file)  # some writers leave it to its owner alone
            os.replace(file, out.parent / file.name)
    print(f"largest difference to the original, for {count:,} test samples: {largest:.1e}")
    print(f"written to {out}")
    return 0


def _batches(data: "Data") -> "Iterator[Tensor]":
    """The first test samples, in batches of more than one size."""
    count = 0
    for inputs, _ in data.test_dataloader():
        yield from (inputs[:1], inputs[1 : SAMPLES - count]) if not count else (inputs[: SAMPLES - count],)
        count += len(inputs)
        if count >= SAMPLES:
            return


def _metadata(experiment: "Experiment", node: Mapping[str, Any]) -> dict[str, str]:
    """What it takes to use the file: how its input is made, and what the columns of its output are."""
    from lamella.training.losses import output_activation
    from lamella.training.metrics import is_classifier

    images = experiment.data.images
    known: dict[str, Any] = {
        "shape": experiment.data.shape,
        "classes": experiment.data.classes if is_classifier(experiment.metric) else None,
        "mean": node.get("mean") if images else None,
        "std": node.get("std") if images else None,
        "input": "float32, (batch, *shape)" + (IMAGES if images else ""),
    }
    if is_classifier(experiment.metric):
        squashed = output_activation(experiment.loss)
        known["output"] = f"float32, (batch, classes): logits, of which {squashed} makes probabilities"
    return {name: json.dumps(value) for name, value in known.items()}
