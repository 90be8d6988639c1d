"""lamella find lr [OVERRIDE…]: try rising learning rates, and print the override of the one at which the loss falls.

lamella find lr network=cnn optimizer=sgd
lamella find lr experiment=tabular_classes --plot tabular.png
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lamella.commands.parser import CommandParser
from lamella.config.compose import compose_and_call
from lamella.config.composed import ComposedConfig
from lamella.console import print
from lamella.errors import RequestError
from lamella.runs.charts import can_plot, check_picture, plot_rates
from lamella.runs.files import check_output_path
from lamella.runs.names import check_run_name
from lamella.tables import format_table

if TYPE_CHECKING:
    from lamella.training.range_test import LossCurve

PICTURE = Path("find-lr.png")


def main(arguments: list[str]) -> int:
    """Print the losses at rising learning rates and a suggestion, and return the exit status: 1 if there is none."""
    parser = CommandParser(__doc__)
    parser.add_argument("what", metavar="lr", help="what to find: the learning rate")
    parser.add_argument("overrides", metavar="OVERRIDE", nargs="*", help="as for `lamella train`")
    parser.add_argument("--plot", type=Path, metavar="FILE", help=f"draw the curve: .png, .svg; default: {PICTURE}")
    if "-m" in arguments or "--multirun" in arguments:
        raise RequestError("find trains one network; leave -m out, and give each key one value")
    options = parser.parse_intermixed_args(arguments)
    if options.what != "lr":
        raise RequestError(f"there is no {options.what!r} to find; write `lamella find lr`, with overrides after it")
    file: Path = options.plot or PICTURE
    check_output_path(file, "--plot")
    if options.plot:
        check_picture(file)

    def find(job: ComposedConfig) -> int:
        return _find(job, file)

    return compose_and_call(find, options.overrides)


def _find(job: ComposedConfig, file: Path) -> int:
    """Try the learning rates of a composed config, and print the result. Returns the exit status."""
    if "name" in job.config:
        check_run_name(job.config["name"])

    from lamella.experiment.build import prepare_experiment
    from lamella.experiment.find_rate import check_range_test, run_range_test
    from lamella.experiment.rehearsal import rehearse
    from lamella.training.device import process_count

    experiment = prepare_experiment(job.config, job.references, written=job.written)
    check_range_test(experiment)
    experiment.data.check_headers()
    rehearse(experiment, job.config)
    print(f"Using {experiment.device.accelerator} device")
    print(experiment.data.summary())
    if process_count(job.config["trainer"], experiment.device.accelerator) > 1:
        print("note: one process trains whole batches here", file=sys.stderr)
    [plan] = experiment.optimizers.values()
    return _report(run_range_test(experiment, job.config["trainer"]), _rates(job, plan.grouping.rate), file)


def _rates(job: ComposedConfig, rate: float) -> dict[str, float]:
    """Return the learning rates that a config writes, by their keys as an override has them. rate: of optimizer.lr."""
    node = job.config["optimizer"]
    rates = {"optimizer.lr" if "lr" in node else "+optimizer.lr": rate}
    for number, group in enumerate(node.get("groups") or []):
        key = f"optimizer.groups.{number}.lr"
        if "lr" in group and key not in job.reads:  # one that reads another key follows that
            rates[key] = group["lr"]
    return rates


def _report(curve: "LossCurve", written: dict[str, float], file: Path) -> int:
    """Print the curve and the suggestion, draw the curve, and return the exit status.

    written: the rates of the config by their keys, that of optimizer.lr first; the suggestion keeps their proportions.
    """
    from lamella.training.range_test import rate_at

    best, count = curve.best(), len(curve.smoothed)
    rows = [["learning rate", "loss", ""]]
    for step in sorted({*range(0, count, 15), *range(count)[-1:], *([] if best is None else [best])}):
        mark = "falls fastest" if step == best else "diverges" if step == count - 1 and curve.diverged else ""
        rows.append([f"{rate_at(step):.1e}", f"{curve.smoothed[step]:.4f}", mark])
    print(format_table(rows))
    rates = [rate_at(step) for step in range(count)]
    if best is None:
        print("suggestion  none, the loss falls at no rate; see whether it falls with trainer.overfit=4 at all")
    else:
        factor = rates[best] / next(iter(written.values()))
        print("suggestion ", *(f"{key}={rate * factor:.1e}" for key, rate in written.items()))
    if can_plot():
        plot_rates(rates, curve.losses, curve.smoothed, None if best is None else rates[best], file)
        print(f"curve       {file}")
    else:
        print("curve       not drawn, which needs matplotlib; uv pip install -e '.[plot]'")
    return int(best is None)
