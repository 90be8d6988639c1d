"""lamella export RUN --format onnx|pt2|safetensors: write the network for other runtimes, and check the file.

lamella export outputs/default/defaults --format onnx
lamella export outputs/default/defaults --format pt2 --out network.pt2
"""

import argparse
import io
import json
import logging
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from lamella.atomic_files import replacing
from lamella.commands.parser import CommandParser
from lamella.config.overrides import config_for_testing
from lamella.config.values import Config
from lamella.console import print
from lamella.errors import RequestError, first_line
from lamella.runs.files import check_output_path
from lamella.runs.reader import read_run, unfinished_note

if TYPE_CHECKING:
    from torch import Tensor

    from lamella.data import RunData
    from lamella.data.samples import Shape
    from lamella.experiment.experiment import Experiment

IMAGES = (
    ": upright by its EXIF orientation, over {} where it is transparent, grey (1 channel) or RGB, "
    "resized (bilinear, antialiased), (pixel / 255 - mean) / std of each channel"
)
TOLERANCE = 1e-4  # the largest difference between the outputs of the file and of the network
SAMPLES = 1000  # test samples for which the outputs are compared


def main(arguments: list[str]) -> int:
    """Export the network of a run and return the exit status: 1 where the file would be wrong or cannot be made."""
    options = _parse(arguments)
    record, config = read_run(options.run)
    config = config_for_testing(record, config, [*options.overrides, "device.accelerator=cpu"])
    if note := unfinished_note(record):
        print(note, file=sys.stderr)
    out: Path = options.out or options.run / f"network.{options.format}"
    _check_out(out, options.format)

    from lamella.experiment.model import load_experiment

    experiment = load_experiment(options.run, config, options.checkpoint)
    # The file is copied once it is checked, so that an export that is killed leaves nothing beside the run's own files.
    with tempfile.TemporaryDirectory() as folder:
        try:
            differences = _write_and_compare(experiment, config, options.format, Path(folder) / out.name)
        except ImportError as error:
            advice = "uv pip install -e '.[export]'"
            raise RequestError(f"--format {options.format} needs {error.name}; {advice}") from error
        except OSError as error:
            raise RequestError(
                f"{folder}: cannot write there ({error.strerror}); TMPDIR names another place"
            ) from error
        except RuntimeError as error:
            print(f"error: this network cannot be exported as {options.format}: {error}", file=sys.stderr)
            return 1
        count, largest = len(differences), float(differences.max())
        if not largest <= TOLERANCE:  # written so that NaN fails
            print(
                f"error: {options.format}: the outputs of the file differ by up to {largest:.1e} for {count:,} test "
                f"samples, and at most {TOLERANCE:.0e} is allowed; nothing is written",
                file=sys.stderr,
            )
            return 1
        try:
            for file in sorted(Path(folder).iterdir()):  # ONNX puts weights of more than 2 GB into a second file
                with replacing(out.parent / file.name) as temporary:
                    shutil.copyfile(file, temporary)
        except OSError as error:
            raise RequestError(f"{out}: cannot write there ({error.strerror}); --out FILE writes elsewhere") from error
    print(f"largest difference to the original, for {count:,} test samples: {largest:.1e}")
    print(f"written to {out}")
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory")
    parser.add_argument("overrides", metavar="OVERRIDE", nargs="*", help="of data, with which the file is checked")
    parser.add_argument("--format", choices=["onnx", "pt2", "safetensors"], required=True)
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: RUN/network.FORMAT")
    parser.add_argument("--checkpoint", default="best", metavar="best|last|NAME|PATH", help="default: best")
    options = parser.parse_intermixed_args(arguments)
    parser.check_one_run(options.overrides)
    return options


def _check_out(out: Path, name: str) -> None:
    """Raise RequestError if a file of the format `name` cannot be written to `out`."""
    if not out.absolute().parent.is_dir() or out.is_dir():
        problem = "this is a directory" if out.is_dir() else f"there is no directory {out.parent}"
        raise RequestError(f"--out {out}: {problem}")
    if out.suffix != f".{name}":
        raise RequestError(f"--out {out}: the name must end in .{name}")
    check_output_path(out)


def _write_and_compare(experiment: "Experiment", config: Config, name: str, file: Path) -> "Tensor":
    """Write the network into `file` in the format `name`, run the file in its runtime, and compare the outputs.

    Returns for each test sample (SAMPLES,) the largest absolute difference between the outputs of the file and of the
    network. Raises RequestError for several stacks, ImportError where a package is not installed, and RuntimeError with
    the first cause in one line where the network cannot be exported.
    """
    import pytorch_lightning as pl
    import torch

    from lamella.experiment.build import build_network
    from lamella.experiment.export_formats import FORMATS
    from lamella.network.eval_mode import eval_mode
    from lamella.network.pretrained import without_pretrained_weights
    from lamella.training.own_module import defines, title

    write, read = FORMATS[name]
    network, data = experiment.task.network if experiment.kind.is_task else experiment.module, experiment.data
    if isinstance(network, torch.nn.ModuleDict):
        raise RequestError(
            f"this network has the stacks {', '.join(network)}, which a step of the task's own runs; a file has one"
        )
    if isinstance(network, pl.LightningModule) and not defines(type(network), "forward"):
        raise RuntimeError(f"{title(type(network))} has no forward")
    with without_pretrained_weights():
        other, *_ = build_network(config)  # with other weights, for a format that stores the weights alone
    metadata = _metadata(experiment, config["data"])
    with eval_mode(network), eval_mode(other):
        try:
            with _quiet():
                first = next(_batches(data))
                # Two samples: torch.export takes a batch of one for a fixed size.
                write(network, torch.cat([first, first]), file, metadata)
                run = read(file, other)
                batches = _batches(data)
                return torch.cat([(run(inputs) - network(inputs)).abs().flatten(1).amax(1) for inputs in batches])
        except (ImportError, OSError):
            raise
        except Exception as error:
            cause: BaseException = error
            while cause.__cause__:
                cause = cause.__cause__
            raise RuntimeError(first_line(cause)) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress warnings, logging and output: torch's exporters print progress, and whole programs when they fail."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _batches(data: "RunData") -> "Iterator[Tensor]":
    """Yield the inputs (B, …) of the first SAMPLES test samples; the first batch has another size than the others."""
    import torch

    count = 0
    for batch in data.test_dataloader():
        # A LightningModule of the project's own may take batches that are not pairs.
        inputs = batch[0] if isinstance(batch, tuple | list) else batch
        if not isinstance(inputs, torch.Tensor):
            raise RuntimeError("its network takes several inputs by name, and a file has one input")
        yield from (inputs[:1], inputs[1 : SAMPLES - count]) if not count else (inputs[: SAMPLES - count],)
        count += len(inputs)
        if count >= SAMPLES:
            return


def _metadata(experiment: "Experiment", data: Config) -> dict[str, str]:
    """Return what a user of the file needs to know, each as JSON: how to make its input, and what its output means."""
    images, source = experiment.data.images, data.get("source") or {}
    known: dict[str, object] = {
        "shape": experiment.data.shape,
        "classes": experiment.data.classes if experiment.objective.is_classifier else None,
        "mean": _of_each_channel(data.get("mean"), experiment.data.shape) if images else None,
        "std": _of_each_channel(data.get("std"), experiment.data.shape) if images else None,
        "input": "float32, (batch, *shape)" + (IMAGES.format(source.get("background", "white")) if images else ""),
    }
    if experiment.data.encoder is not None:
        known["preprocessing"] = experiment.data.encoder.state()
    if experiment.objective.is_classifier:
        activation = experiment.objective.activation
        meaning = f"logits, of which {activation} makes probabilities" if activation else "probabilities"
        known["output"] = f"float32, (batch, classes): {meaning}"
    return {name: json.dumps(value) for name, value in known.items()}


def _of_each_channel(value: object, shape: "Shape") -> object:
    """Return a number for each channel as a list. value: such a list, a number for all channels, or None."""
    return [value] * shape[0] if isinstance(value, int | float) and isinstance(shape, tuple) else value
