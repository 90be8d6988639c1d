"""lamella eval RUN [OVERRIDE…]: test a run's best checkpoint, on its own data or other data.

lamella eval outputs/default/defaults
lamella eval outputs/default/defaults --checkpoint last device=cpu
lamella eval outputs/mnist/defaults data.root=/other/place
lamella eval outputs/cifar10/defaults --views flip,shift
"""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.cells import cell_len

from lamella.atomic_files import write_atomically
from lamella.commands.parser import CommandParser
from lamella.config.diagnostics import explained_error
from lamella.config.origins import ConfigFile
from lamella.config.overrides import config_for_testing
from lamella.config.values import Config
from lamella.console import print
from lamella.errors import RequestError
from lamella.runs.files import check_output_path
from lamella.runs.reader import read_run, unfinished_note
from lamella.tables import format_table, terminal_width

if TYPE_CHECKING:
    from lamella.data import RunData
    from lamella.experiment.evaluation import Evaluation

CUT = {"val_size": 0.1, "test_size": 0.1, "split_seed": 0}  # what decides which samples are cut off, by default
MOST_CLASSES = 20  # in the printed confusion matrix; more do not fit side by side


def main(arguments: list[str]) -> int:
    """Test a run's checkpoint, write the result into a file, print it, and return the exit status."""
    parser = CommandParser(__doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory")
    parser.add_argument("overrides", metavar="OVERRIDE", nargs="*", help="of data and device, as for `lamella train`")
    parser.add_argument("--checkpoint", default="best", metavar="best|last|NAME|PATH", help="default: best")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the result goes; default: RUN/eval.json")
    parser.add_argument(
        "--views", metavar="flip,shift", help="average the outputs for mirror images, and for images moved by a pixel"
    )
    options = parser.parse_intermixed_args(arguments)
    parser.check_one_run(options.overrides)

    record, trained = read_run(options.run)
    config = config_for_testing(record, trained, options.overrides)
    out = options.out or options.run / "eval.json"
    check_output_path(out)
    if note := unfinished_note(record):
        print(note, file=sys.stderr)

    from lamella.data.fingerprint import changed, uncompared_notes
    from lamella.experiment.evaluation import evaluate
    from lamella.experiment.model import load_experiment
    from lamella.experiment.views import average_views
    from lamella.lightning_internals import datamodule_key
    from lamella.runs.checkpoints import find_checkpoint, read_checkpoint, weights_kind

    try:
        experiment = load_experiment(options.run, config, options.checkpoint, as_trained=True)
    except RequestError as error:
        recorded = [ConfigFile(options.run / "config.yaml")]
        raise explained_error(error, options.overrides, lambda: recorded) from error
    file = find_checkpoint(options.run, options.checkpoint)
    print(f"Using {experiment.device.accelerator} device")
    checkpoint = read_checkpoint(file)
    if (weights := weights_kind(checkpoint)) == "averaged":
        print(f"note: the weights of {file.name} are averaged", file=sys.stderr)
    saved = checkpoint.get(datamodule_key(type(experiment.data)))
    different, notes = experiment.data.differences(saved, "test"), list[str]()
    if different and not options.overrides:
        notes.append(f"these are not the samples that the run was trained and tested with; {changed(different)}")
    if saved and not options.overrides:
        notes += uncompared_notes(saved, experiment.data.state_dict(), ["test"])
    for note in [*notes, *_notes(trained["data"], config["data"], experiment.data, not different)]:
        print(f"note: {note}", file=sys.stderr)
    if options.views is not None:
        average_views(experiment, options.views)
    result = evaluate(experiment, options.run)
    # Labels of pixels and the like have no names.
    scored, classes = len(result.scores()), experiment.data.classes
    classes = classes if len(classes) == scored else [str(number) for number in range(scored)]
    device = experiment.device.accelerator
    request = {"checkpoint": str(file), "weights": weights, "overrides": options.overrides, "device": device}
    request |= {"views": options.views} if options.views is not None else {}
    try:
        write_atomically(out, json.dumps(request | _plain(result, classes), indent=2) + "\n")
    except OSError as error:
        raise RequestError(f"{out}: cannot write there ({error.strerror}); --out FILE writes elsewhere") from error
    print(f"{_text(result, classes)}\n\nwritten to {out}")
    if not math.isfinite(loss := result.metrics.get("test/loss", 0.0)):
        print(f"error: the loss of the test is {loss}", file=sys.stderr)
        return 1
    return 0


def _notes(trained: Config, tested: Config, data: "RunData", are_same: bool) -> Iterator[str]:
    """Yield what a user should know of the samples of a test.

    trained, tested: the config group `data` of the run and of this test. are_same: whether the samples of each split
    are those of the run, as far as they are compared.
    """
    import torch

    from lamella.data import Samples, Splits
    from lamella.data.samples import cut_splits

    yield from [*([data.left_out] if data.left_out else []), *data.source_notes]
    sources = [{**node.get("source", node.get("train", {})), "download": None} for node in (trained, tested)]
    if "test" not in data.cut:
        return
    if sources[0] != sources[1]:
        if not are_same:  # otherwise a folder, for example, has only moved
            yield (
                "the test samples are cut off from the training samples of another source than the run's; some may "
                "have been training samples of the run"
            )
        return
    numbers = torch.arange(sum(data.sizes[name] for name in ("train", *data.cut)))
    whole = Samples(numbers, numbers, data.groups)
    source = Splits(whole, None if "val" in data.cut else whole)
    folds = trained.get("folds") is not None  # of which each sample was in one, for training or validation
    (before, *_), (*_, test) = (
        cut_splits(source, *(node.get(key, default) for key, default in CUT.items()))
        for node in ({**trained, "val_size": 0} if folds else trained, tested)
    )
    both = int(torch.isin(test.targets, before.targets).sum())
    if both:
        yield f"{both:,} of the {len(test):,} test samples were training {'or validation ' * folds}samples of the run"


def _plain(result: "Evaluation", classes: list[str]) -> dict[str, object]:
    """Return the result as plain values, for the file."""
    return {
        "samples": result.samples,
        "metrics": result.metrics,
        "intervals": result.intervals,
        "classes": [{"class": name, **scores} for name, scores in zip(classes, result.scores(), strict=True)],
        "confusion": None if result.confusion is None else result.confusion.tolist(),
    }


def _text(result: "Evaluation", classes: list[str]) -> str:
    """Return the metrics, the scores of each class and the confusion matrix as text."""
    numbers = " ".join(f"{name.removeprefix('test/')} {value:.4f}" for name, value in result.metrics.items())
    lines = [f"{result.samples:,} samples  {numbers}"]
    if result.intervals:
        ranges = (
            f"{name.removeprefix('test/')} {result.intervals[name][0]:.4f} to {result.intervals[name][1]:.4f}"
            for name in result.metrics
            if name in result.intervals
        )
        lines.append(f"95 % intervals over the samples: {', '.join(ranges)}")
    scores = result.scores()
    if scores:
        rows = [["class", *scores[0]]]
        rows += [
            [name, *(f"{value:.0f}" if key == "support" else _score_text(value) for key, value in row.items())]
            for name, row in zip(classes, scores, strict=True)
        ]
        lines += ["", format_table(rows)]
    if result.confusion is not None:
        rows = [["true \\ predicted", *classes]]
        rows += [[name, *map(str, row)] for name, row in zip(classes, result.confusion.tolist(), strict=True)]
        table = format_table(rows)
        if len(classes) > MOST_CLASSES or cell_len(table.partition("\n")[0]) > terminal_width():
            table = f"the confusion matrix of {len(classes)} classes is in the file"
        lines += ["", table]
    return "\n".join(lines)


def _score_text(score: float | None) -> str:
    return "-" if score is None else f"{score:.4f}"
