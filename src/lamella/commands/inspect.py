"""lamella inspect [OVERRIDE… | RUN]: structure, shapes, one forward and backward pass, the computational graph.

lamella inspect network=neural_network
lamella inspect outputs/default/defaults --activations
lamella inspect experiment=autograd --gradients --graph graph.svg
"""

import argparse
import json
import math
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamella.config.compose import compose_and_call
from lamella.config.composed import ComposedConfig
from lamella.config.overrides import config_for_testing
from lamella.errors import RequestError, first_line
from lamella.network.trace import layer_table
from lamella.runs.reader import read_run, unfinished_note
from lamella.tables import format_size

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lamella.experiment.experiment import Experiment
    from lamella.inspection.gradients import Backward, GradientCheck
    from lamella.network.trace import LayerRow

SHOWN = 3  # samples
SHOWN_VALUES = 6  # of a tensor, for programs
RECTIFIERS = ("ReLU", "ReLU6")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("lamella inspect", description="What a network is and what it does to a batch.")
    parser.add_argument("given", nargs="*", metavar="OVERRIDE | RUN", help="as for `lamella train`, or a run directory")
    parser.add_argument("--parameters", action="store_true", help="every parameter: name, size, first values")
    parser.add_argument("--activations", action="store_true", help="the values before and after each layer")
    parser.add_argument("--gradients", action="store_true", help="forward, loss, backward: what lands in .grad")
    parser.add_argument("--graph", type=Path, metavar="FILE", help="draw the computational graph: .svg, .png or .dot")
    parser.add_argument("--json", action="store_true", help="all of it, for programs")
    parser.add_argument("--checkpoint", choices=["best", "last"], help="of a RUN; default: best")
    if "-m" in arguments or "--multirun" in arguments:
        raise RequestError("inspect looks at one network; leave -m out, and give each key one value")
    options = parser.parse_intermixed_args(arguments)

    run = _run(options.given)
    if run is None:
        if options.checkpoint:
            raise RequestError("--checkpoint is that of a run; give its directory")
        texts: list[str] = []

        def inspect(job: ComposedConfig) -> int:
            from lamella.experiment.build import build_experiment

            texts.append(_text(build_experiment(job.config, job.references), options))
            return 0

        status = compose_and_call(inspect, options.given)
        print(*texts, sep="", end="\n" if texts else "")
        return status

    from lamella.experiment.build import build_experiment
    from lamella.runs.checkpoints import find_checkpoint, restore_weights

    fields, config = read_run(run)
    note = unfinished_note(fields)
    if note:
        print(note, file=sys.stderr)
    experiment = build_experiment(config_for_testing(fields, config, []))
    restore_weights(experiment.task, find_checkpoint(run, options.checkpoint or "best"))
    print(_text(experiment, options))
    return 0


def _run(given: list[str]) -> Path | None:
    """The run directory among the arguments, None where they are overrides."""
    paths = [
        Path(argument)
        for argument in given
        if "=" not in argument.partition("/")[0] and not argument.startswith(("~", "+"))
    ]
    paths += [Path(argument) for argument in given if (Path(argument) / "run.json").is_file()]
    if not paths:
        return None
    if len(given) > 1:
        raise RequestError(f"{paths[0]}: a run is inspected as it was recorded, without overrides; give it alone")
    return paths[0]


def _text(experiment: "Experiment", options: argparse.Namespace) -> str:
    """What was asked for, section by section, or all of it as JSON."""
    import torch

    experiment.device.configure_process()
    torch.set_printoptions(threshold=60, edgeitems=3, linewidth=80)  # type: ignore[no-untyped-call]
    sections = dict(_sections(experiment, options))
    if options.json:
        return json.dumps({name: data for name, (data, _) in sections.items()})
    return "\n\n".join(text for _, text in sections.values())


def _sections(experiment: "Experiment", options: argparse.Namespace) -> Iterator[tuple[str, tuple[Any, str]]]:
    """The name of each section, its values for programs and its text for people."""
    import torch

    from lamella.inspection.autograd_graph import draw_graph, graph_nodes, graph_text
    from lamella.inspection.gradients import backward, check_gradients

    device, rows, data = experiment.device.accelerator, experiment.plan.trace, experiment.data
    yield "device", (device, f"Using {device} device")
    reason = _too_big(sum(row.parameters for row in rows))
    if reason:
        with torch.device("meta"):
            network = experiment.plan.build()
    else:
        network = experiment.task.to(device).network
    yield "structure", (str(network), str(network))
    yield "layers", ([vars(row) for row in rows], _layers(rows, network, min(data.batch_size, len(data.train))))
    if reason:
        yield "left_out", (reason, _wrapped(f"The batch, and what it would be run for, is left out: {reason}"))
        return

    inputs, targets = (values.to(device) for values in next(iter(data.train_dataloader())))
    yield "batch", _batch(experiment, inputs, targets)
    if options.parameters or options.json:
        yield "parameters", _parameters(network)
    if options.activations or options.json:
        yield "activations", _activations(network, inputs)
    if options.gradients or options.graph or options.json:
        passed = backward(experiment.task, inputs, targets)
        if options.gradients or options.json:
            try:
                check: GradientCheck | str = check_gradients(experiment.task, inputs, targets)
            except RuntimeError as error:  # a network that does not compute in double precision
                check = first_line(error)
            yield "gradients", _gradients(passed, check)
        graph = graph_nodes(passed.loss, passed.parameters)
        if options.graph:
            draw_graph(graph, options.graph)
        if options.graph or options.json:
            lines = ["The computational graph, from the loss to the leaves, which are the parameters:"]
            lines += ["number, operation (grad_fn), shape, what it was computed from", *graph_text(graph)]
            written = [f"drawn in {options.graph}"] if options.graph else []
            yield "graph", ([vars(node) for node in graph], "\n".join([*lines, *written]))


def _too_big(parameters: int) -> str | None:
    """Why a network cannot be made here: float32 weights, gradients and a copy of both have to fit."""
    needed = 4 * 4 * parameters
    try:
        [free] = re.findall(r"MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text())
        free = 1024 * int(free)
    except (OSError, ValueError):  # not told on this system
        return None
    if needed < free:
        return None
    return f"weights and gradients take {format_size(needed)}, and {format_size(free)} of memory are free"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 80, subsequent_indent="  ", break_long_words=False)


def _layers(rows: "list[LayerRow]", network: "nn.Module", batch: int) -> str:
    values = sum(math.prod(row.output) for row in rows)
    frozen = sum(parameter.numel() for parameter in network.parameters() if not parameter.requires_grad)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    lines = [
        layer_table(rows, batch, max(80, shutil.get_terminal_size().columns)),
        _wrapped(
            f"mult-adds (multiplications with an addition) are of one sample; weights {format_size(weights)}; "
            f"what all layers give for a batch {format_size(4 * batch * values)}"
        ),
    ]
    if frozen:
        names = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
        lines.append(_wrapped(f"frozen: {frozen:,} parameters ({', '.join(names)})"))
    return "\n".join(lines)


def _batch(experiment: "Experiment", inputs: "Tensor", targets: "Tensor") -> tuple[Any, str]:
    import torch

    from lamella.network.eval_mode import eval_mode
    from lamella.training.losses import output_activation, probabilities

    network, classes = experiment.task.network, experiment.data.classes
    with eval_mode(network):
        output = network(inputs)
    labels = output_activation(experiment.loss) == "sigmoid"
    shape, indices = tuple(output.shape), targets.dtype == torch.int64 and not labels
    chances = probabilities(output, experiment.loss) if indices or labels else output
    data: dict[str, Any] = {
        "output": output.tolist(),
        "targets": targets.tolist(),
        "requires_grad": output.requires_grad,
    }
    lines = [
        f"A batch of {len(inputs)} training samples (at most {SHOWN} shown), in evaluation:\n"
        f"no gradient is tracked, requires_grad={output.requires_grad}",
        f"{'logits' if indices else 'output'} {shape}\n{output[:SHOWN].cpu()}",
    ]
    if indices:
        predicted = chances.argmax(1)
        data |= {
            "probabilities": chances.tolist(),
            "predicted": [classes[number] for number in predicted.tolist()],
            "true": [classes[number] for number in targets.tolist()],
        }
        lines.append(f"probabilities {shape}: softmax, each row sums to 1\n{chances[:SHOWN].cpu()}")
        lines += [
            f"sample {number}: predicted {data['predicted'][number]} ({float(chances[number].max()):.4f}), "
            f"true {data['true'][number]}"
            for number in range(min(SHOWN, len(inputs)))
        ]
    elif labels:
        data["probabilities"] = chances.tolist()
        lines.append(f"probabilities {shape}: sigmoid, one label at a time\n{chances[:SHOWN].cpu()}")
    if not indices:
        lines.append(f"targets {tuple(targets.shape)}\n{targets[:SHOWN].cpu()}")
    return data, "\n".join(lines)


def _first(tensor: "Tensor") -> "Tensor":
    """The first two rows, as the study note shows parameters; a small tensor whole."""
    tensor = tensor.detach().cpu()
    return tensor if tensor.numel() <= 60 else tensor[:2]


def _parameters(network: "nn.Module") -> tuple[Any, str]:
    lines, data = [], []
    for number, (name, value) in enumerate(network.named_parameters()):
        frozen = "" if value.requires_grad else " | frozen"
        lines.append(f"{number}  {name} | Size: {value.size()}{frozen}\n{_first(value)}")
        first = value.detach().flatten()[:6].tolist()
        data.append({"name": name, "size": list(value.shape), "frozen": not value.requires_grad, "first": first})
    return data, "\n".join(["Parameters", *lines])


def _activations(network: "nn.Module", inputs: "Tensor") -> tuple[Any, str]:
    from lamella.inspection.activations import activations

    lines = ["Activations before and after each layer: the first sample's values, the batch's", "statistics"]
    data = []
    for item in activations(network, inputs):
        lines.append(f"{item.name}  {item.layer}  {item.before.shape} -> {item.after.shape}")
        for word, values in (("before", item.before), ("after", item.after)):
            numbers = " ".join(f"{value:8.4f}" for value in values.first[:3].tolist())
            lines.append(
                f"  {word:<6} {numbers} …  zeros {values.zeros:6.1%}  mean {values.mean:8.4f}  std {values.std:.4f}"
            )
        dead = item.dead if item.layer in RECTIFIERS else 0
        if dead:
            lines.append(f"  dead: {dead} of {item.units} units are 0 for every sample of the batch")
        data.append(
            {
                "name": item.name,
                "layer": item.layer,
                "dead": dead,
                "units": item.units,
                "before": vars(item.before) | {"first": item.before.first[:SHOWN_VALUES].tolist()},
                "after": vars(item.after) | {"first": item.after.first[:SHOWN_VALUES].tolist()},
            }
        )
    return data, "\n".join(lines)


def _gradients(passed: "Backward", check: "GradientCheck | str") -> tuple[Any, str]:
    z, loss = passed.output, passed.loss
    lines = [
        "Forward, loss, backward, as a step of training takes them",
        f"z {tuple(z.shape)}, requires_grad={z.requires_grad}\n{_first(z)}",
    ]
    lines.append(f"loss = {loss.item():.6f}, grad_fn={loss.grad_fn and loss.grad_fn.name()}")
    data: list[Any] = []
    for name, value in passed.parameters.items():
        gradient = value.grad
        if gradient is None:
            lines.append(f"{name}.grad is None: {'no gradient reaches it' if value.requires_grad else 'frozen'}")
            data.append({"name": name, "size": list(value.shape), "gradient": None})
            continue
        norm = float(gradient.norm())
        lines.append(f"{name}.grad {tuple(gradient.shape)}, norm {norm:.6f}\n{_first(gradient)}")
        first = gradient.flatten()[:SHOWN_VALUES].tolist()
        data.append({"name": name, "size": list(value.shape), "norm": norm, "first": first})
    if isinstance(check, str):
        lines.append(_wrapped(f"not checked by finite differences: {check}"))
        return {"loss": loss.item(), "parameters": data, "check": None}, "\n".join(lines)
    verdict = ("agrees" if check.passed else "DISAGREES") if check.entries else "has nothing to check"
    if check.kinks:
        lines.append(f"{check.kinks} entries are left out of the check: the loss has a kink there")
    lines.append(
        f"{check.entries} entries by finite differences, float64: largest error {check.error:.0e}; gradcheck {verdict}"
    )
    return {"loss": loss.item(), "parameters": data, "check": vars(check)}, "\n".join(lines)
