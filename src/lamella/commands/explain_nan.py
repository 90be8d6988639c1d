"""lamella explain-nan RUN: say where the first number of a run that is not finite came from.

lamella explain-nan outputs/default/defaults
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from lamella.commands.parser import CommandParser
from lamella.config.values import Config
from lamella.console import print
from lamella.errors import RequestError
from lamella.runs.files import LAST
from lamella.runs.reader import read_epochs, read_run
from lamella.runs.schema import RunRecord

if TYPE_CHECKING:
    from lamella.experiment.experiment import Experiment
    from lamella.inspection.finite_watch import NonFiniteFound, Place, Spread

# The layers around others, whose names are in the keys of the config alone.
COMPOSITES = ("Sequential", "Repeat", "Residual", "Concat", "Add", "Multiply")
LARGE = 1e4  # from here on, a network has left the range in which it learns


def main(arguments: list[str]) -> int:
    """Train the steps before the failure again, and print what was the first to be not finite; return the status."""
    parser = CommandParser(__doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory")
    path: Path = parser.parse_args(arguments).run
    record, config = read_run(path)
    if record["status"] == "running":
        raise RequestError(f"{path}: the run is still in training; wait for its end")
    epoch = _suspicious_epoch(path, record)
    if epoch is None:
        print(f"{path}: no NaN: the losses and gradients of {record['epochs']} epochs and the last weights are finite")
        return 0

    from lamella.experiment.second_pass import repeatable_experiment, train_again
    from lamella.inspection.finite_watch import AllFinite, FiniteWatch, NonFiniteFound
    from lamella.training.non_finite import NonFiniteLoss

    experiment = repeatable_experiment(path, record, config)
    places = _places(experiment)
    print(f"{record.get('error') or 'a gradient or a weight is not finite'}\ntraining again to see where it began")
    try:
        train_again(experiment, path, record, config, epoch, FiniteWatch(epoch))
    except NonFiniteFound as found:
        print(_report(found, places, config))
        return 0
    except NonFiniteLoss as error:
        print(f"the first that is not finite is the loss, and no output of a layer: {error}")
        return 0
    except AllFinite:
        pass
    reasons = [*record.get("inexact", []), *(["its steps were compiled"] if record.get("compiled") else [])]
    why = ", ".join(reasons) or "another processor, GPU or version of torch may round otherwise"
    print(f"all numbers were finite this time, up to epoch {epoch}: the bits differ from those of the run ({why})")
    return 1


def _suspicious_epoch(path: Path, record: RunRecord) -> int | None:
    """Return the epoch, counted from 1, in which a number was not finite, None for a run without such a number."""
    for line in read_epochs(path):
        if any(not math.isfinite(value) for key, value in line.items() if "loss" in key or key == "grad_norm"):
            return int(line["epoch"])
    if (record.get("error") or "").startswith("NonFiniteLoss"):
        return record["epochs"] + 1
    last = path / "checkpoints" / LAST
    if last.is_file():
        from lamella.experiment.second_pass import is_finite
        from lamella.runs.checkpoints import read_checkpoint

        if not is_finite(read_checkpoint(last)):
            return record["epochs"] + 1
    return None


def _places(experiment: "Experiment") -> dict[str, str]:
    """Return the config keys of the layers by their names in the LightningModule, as far as they are known."""
    from lamella.network.leaves import named_leaves

    if experiment.plan is None or not experiment.kind.is_task:
        return {}
    rows = [row for row in experiment.plan.trace if not row.layer.endswith(", other")]  # which is no layer
    keys = {_plain(row.place): row.place for row in rows}
    leaves = {f"network.{name}": type(leaf).__name__ for name, leaf in named_leaves(experiment.task.network)}
    places = {name: keys[_plain(name)] for name in leaves if _plain(name) in keys}
    # The copies of a Repeat have one key, and a name each.
    copies = [name for name in leaves if name not in places]
    repeated = [row for row in rows if row.place not in places.values()]
    if [leaves[name] for name in copies] == [row.layer for row in repeated]:
        places |= {name: f"{row.place}, in the module {name}" for name, row in zip(copies, repeated, strict=True)}
    return places


def _plain(name: str) -> str:
    """Return the parts of a name that the config key of a layer and its name in the network share."""
    return ".".join(part for part in name.split(".") if part not in (*COMPOSITES, "layers"))


def _report(found: "NonFiniteFound", places: dict[str, str], config: Config) -> str:
    """Return what was found, and what to try, as lines."""
    first, after = found.first, "at" if found.stage == "training" else "after"
    rows = [
        ["where", f"{found.stage}, {after} step {found.step} (epoch {found.epoch}, batch {found.batch})"],
        ["first", "the loss" if first is None else f"{_title(first, places)}: {_wrong(first.values)}"],
    ]
    if first:
        if first.samples:
            rows.append(["samples", f"at the positions {', '.join(map(str, first.samples[:10]))} of the batch"])
        if first.given:
            rows.append(["its input", _range(first.given)])
        rows += [
            [name, _range(spread)]
            for name, spread in (first.weights or {}).items()
            if first.kind not in ("weight", "buffer")
        ]
        if first.gradient:
            rows.append(["gradient", _range(first.gradient)])
    rows.append(["then", found.then])
    if found.rate is not None:
        rows.append(["rate", f"{found.rate:g}"])
    rows += [["try" if number == 0 else "", text] for number, text in enumerate(_advice(found, config))]
    return "\n".join(f"{name:<12}{text}" for name, text in rows)


def _title(place: "Place", places: dict[str, str]) -> str:
    """Return what a place is called in the config."""
    if place.kind == "batch":
        return "the inputs of the batch"
    if place.kind in ("input", "output"):
        return f"the {place.kind} of {places.get(place.name, place.name)} ({place.layer})"
    owner, _, key = place.name.rpartition(".")
    of = "" if place.kind == "buffer" else "of "
    return f"the {place.kind} {of}{key} in {places.get(owner, owner)} ({place.layer})"


def _wrong(values: "Spread") -> str:
    parts = [f"{count:,} {name}" for count, name in ((values.nans, "NaN"), (values.infinities, "infinite")) if count]
    return f"{' and '.join(parts)} of {values.count:,} values"


def _range(values: "Spread") -> str:
    """Return a spread as text."""
    ends = "no finite value" if values.lowest is None else f"{values.lowest:.3g} to {values.highest:.3g}"
    zeros = f", {values.zeros:,} of {values.count:,} are 0" if values.zeros else ""
    return ends + zeros + (f", {_wrong(values)}" if values.nans or values.infinities else "")


def _advice(found: "NonFiniteFound", config: Config) -> list[str]:
    """Return what to try, as far as it follows from what was found."""
    from lamella.inspection.finite_watch import BEGINS

    first = found.first
    slower = "a smaller optimizer.lr, scheduler.warmup_steps=100, or trainer.gradient_clip_val=1"
    if first is None:
        return ["another loss, or an epsilon in it"]
    if first.kind == "batch":
        return ["look at these samples, and at data.mean and data.std; the network is not to blame"]
    spreads = [first.given, first.gradient, *(first.weights or {}).values()]
    grown = max((one.largest for one in spreads if one and math.isfinite(one.largest)), default=0.0)
    if first.kind in ("weight", "buffer"):
        if config["optimizer"].get("eps") == 0:
            return ["optimizer.eps=1e-8: the optimizer divides by a number that may be 0"]
        return ["look at network.weights" if found.then == BEGINS else slower]
    if grown > LARGE:
        return [f"{slower}: numbers have grown to {grown:.1e} in the steps before"]
    if str(config["device"].get("precision", "")).startswith("16"):
        return ["device.precision=bf16-mixed, which has a wider range than float16"]
    if first.kind == "gradient":
        return [
            "an epsilon in what follows this layer: sqrt, norm and powers have no finite derivative at 0, nor has log",
            "clipping does not help, because the norm of such a gradient is not finite either",
        ]
    if first.given and (first.given.zeros or (first.given.lowest is not None and first.given.lowest < 0)):
        return [
            "an epsilon or a clamp in this layer: its input has zeros or negative numbers, which log, sqrt and "
            "division do not take"
        ]
    return ["look at what this layer computes: its input and its parameters are small and finite"]
