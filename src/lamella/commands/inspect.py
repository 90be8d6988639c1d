"""lamella inspect [OVERRIDE… | RUN]: structure, shapes, one forward and backward pass, the computational graph.

lamella inspect network=neural_network
lamella inspect outputs/default/defaults --activations
lamella inspect experiment=autograd --gradients --graph graph.svg
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lamella.commands.parser import CommandParser
from lamella.config.compose import compose_and_call
from lamella.config.composed import ComposedConfig
from lamella.config.files import is_override
from lamella.config.overrides import config_for_testing
from lamella.console import print
from lamella.errors import RequestError
from lamella.runs.files import check_output_path
from lamella.runs.reader import read_run, unfinished_note
from lamella.tables import format_size

if TYPE_CHECKING:
    from torch import Tensor

    from lamella.commands.inspect_sections import Section
    from lamella.experiment.experiment import Experiment


def main(arguments: list[str]) -> int:
    """Print what a network is and what it computes for a batch, and return the exit status."""
    if "-m" in arguments or "--multirun" in arguments:
        raise RequestError("inspect looks at one network; leave -m out, and give each key one value")
    options = _parse(arguments)
    if options.graph:
        check_output_path(options.graph, "--graph")
    run = _run_directory(options.given)
    if run is not None:
        print(_report(_trained_experiment(run, options.checkpoint or "best"), options, trained=True))
        return 0
    if options.checkpoint:
        raise RequestError("--checkpoint is that of a run; give its directory")
    reports: list[str] = []

    def inspect(job: ComposedConfig) -> int:
        from lamella.experiment.build import prepare_experiment
        from lamella.experiment.rehearsal import checked_callbacks
        from lamella.training.trainer_checks import check_options

        experiment = prepare_experiment(job.config, job.references, written=job.written)
        check_options(job.config["trainer"])
        checked_callbacks(job.config["trainer"], experiment)
        reports.append(_report(experiment, options))
        return 0

    status = compose_and_call(inspect, options.given)
    print(*reports, sep="", end="\n" if reports else "")  # after Hydra has ended, which may print for itself
    return status


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("given", nargs="*", metavar="OVERRIDE | RUN", help="as for `lamella train`, or a run directory")
    parser.add_argument("--parameters", action="store_true", help="every parameter: name, size, first values")
    parser.add_argument("--activations", action="store_true", help="the values before and after each layer")
    parser.add_argument("--gradients", action="store_true", help="forward, loss, backward: what lands in .grad")
    parser.add_argument("--graph", type=Path, metavar="FILE", help="draw the computational graph: .svg, .png or .dot")
    parser.add_argument("--json", action="store_true", help="all of it, for programs")
    parser.add_argument("--checkpoint", metavar="best|last|NAME|PATH", help="of a RUN; default: best")
    return parser.parse_intermixed_args(arguments)


def _run_directory(given: list[str]) -> Path | None:
    """Return the run directory among the arguments, None if all are overrides. Raises RequestError if both occur."""
    paths = [Path(argument) for argument in given if not is_override(argument)]
    paths += [Path(argument) for argument in given if (Path(argument) / "run.json").is_file()]
    if not paths:
        return None
    if len(given) > 1:
        raise RequestError(f"{paths[0]}: a run is inspected as it was recorded, without overrides; give it alone")
    return paths[0]


def _trained_experiment(run: Path, checkpoint: str) -> "Experiment":
    """Return the experiment of a run with the weights of its checkpoint. Raises RequestError."""
    from lamella.experiment.model import load_experiment
    from lamella.runs.checkpoints import find_checkpoint, read_checkpoint, weights_kind

    record, config = read_run(run)
    if note := unfinished_note(record):
        print(note, file=sys.stderr)
    experiment = load_experiment(run, config_for_testing(record, config, []), checkpoint)
    if weights_kind(read_checkpoint(file := find_checkpoint(run, checkpoint))) == "averaged":
        print(f"note: the weights of {file.name} are averaged", file=sys.stderr)
    return experiment


def _report(experiment: "Experiment", options: argparse.Namespace, trained: bool = False) -> str:
    """Return the text of the sections that the options ask for, or all sections as JSON.

    trained: whether the network has the weights of a run, and needs none to begin with.
    """
    import torch

    from lamella.commands.inspect_sections import report_width

    torch.set_printoptions(threshold=60, edgeitems=3, linewidth=report_width())  # type: ignore[no-untyped-call]
    sections = dict(_sections(experiment, options, trained))
    if options.json:
        return json.dumps({name: section.data for name, section in sections.items()})
    return "\n\n".join(section.text for section in sections.values())


def _sections(experiment: "Experiment", options: argparse.Namespace, trained: bool) -> "Iterator[tuple[str, Section]]":
    """Yield the name and the content of each section that the options ask for."""

    from torch.nn import ModuleDict

    from lamella.commands.inspect_sections import (
        Section,
        groups_section,
        layers_section,
        left_out_section,
        parameters_section,
    )
    from lamella.experiment.first_weights import fit_filters
    from lamella.network.freeze import freeze_parameters
    from lamella.training.optimizers import parameter_groups

    device, plan, data = experiment.device.accelerator, experiment.plan, experiment.data
    yield "device", Section(device, f"Using {device} device")
    if not experiment.kind.is_task or plan is None:
        module = experiment.module.to(device)
        yield "structure", Section(str(module), str(module))
        if options.parameters or options.json:
            yield "parameters", parameters_section(module)
        yield "left_out", left_out_section("the steps of a LightningModule run its parts")
        return
    too_large = _memory_shortage(sum(layer.parameters for layer in plan.trace))
    network = plan.outline() if too_large else experiment.task.to(device).network
    groups = {} if too_large else parameter_groups(network, experiment.optimizers)
    freeze_parameters(network, experiment.freeze)
    if not trained and not too_large:
        fit_filters(experiment)
    yield "structure", Section(str(network), str(network))
    inputs, targets = next(iter(data.train_dataloader()))
    yield "layers", layers_section(plan, network, len(targets), experiment.freeze)
    if data.augment:
        transforms = [*map(repr, data.augment.listed)]
        yield "augmentation", Section(transforms, "\n".join(["Augmentation of training batches", *transforms]))
    if experiment.weights and not trained:
        taken = experiment.weights.load(network)
        yield "weights", Section(vars(taken), taken.table())
    if groups:
        yield "groups", groups_section(groups)
    if too_large:
        yield "left_out", left_out_section(too_large)
        return
    if isinstance(network, ModuleDict):
        yield "left_out", left_out_section("a step of the task's own runs its parts")
        return
    if isinstance(inputs, dict):
        yield "left_out", left_out_section("it takes several inputs by name")
        return
    inputs, targets = inputs.to(device), targets.to(device)
    yield from _batch_sections(experiment, inputs, targets, options)


def _batch_sections(
    experiment: "Experiment", inputs: "Tensor", targets: "Tensor", options: argparse.Namespace
) -> "Iterator[tuple[str, Section]]":
    """Yield the sections for which a batch is run through the network."""
    import torch

    from lamella.commands import inspect_sections as sections
    from lamella.inspection.autograd_graph import draw_graph, graph_nodes
    from lamella.inspection.gradients import backward
    from lamella.seeds import reseed

    network = experiment.task.network
    yield "batch", sections.batch_section(network, experiment.objective, experiment.data.classes, inputs, targets)
    if options.parameters or options.json:
        yield "parameters", sections.parameters_section(network)
    if options.activations or options.json:
        yield "activations", sections.activations_section(network, inputs)
    if not (options.gradients or options.graph or options.json):
        return
    with torch.random.fork_rng():
        reseed(experiment.seed, inputs.device)  # dropout draws the same numbers each time
        passed = backward(experiment.task, inputs, targets)
    if options.gradients or options.json:
        yield "gradients", sections.gradients_section(experiment.task, inputs, targets, passed)
    graph = graph_nodes(passed.loss, passed.parameters)
    if options.graph:
        draw_graph(graph, options.graph)
    if options.graph or options.json:
        yield "graph", sections.graph_section(graph, options.graph)


def _memory_shortage(parameters: int) -> str | None:
    """Return why the memory of this machine is too small for so many parameters, None if it is not.

    Needed are float32 weights and gradients, and a copy of both for the check of the gradients.
    """
    needed = 4 * 4 * parameters
    try:
        [kilobytes] = re.findall(r"MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text())
    except (OSError, ValueError):  # this system does not report its memory
        return None
    free = 1024 * int(kilobytes)
    if needed < free:
        return None
    return f"weights and gradients take {format_size(needed)}, and {format_size(free)} of memory are free"
