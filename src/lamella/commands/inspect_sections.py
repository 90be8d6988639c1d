"""Compute the sections of `lamella inspect`, each as data for programs and as text for people."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lamella.errors import first_line
from lamella.inspection.activations import Activation, Values, activations
from lamella.inspection.autograd_graph import GraphNode, graph_text
from lamella.inspection.gradients import Backward, GradientCheck, check_gradients
from lamella.network.eval_mode import eval_mode
from lamella.network.freeze import Freeze, last_frozen_epochs
from lamella.network.leaves import leaf_hooks
from lamella.network.plan import Plan
from lamella.network.trace import layer_table
from lamella.network.weight_matching import names_text
from lamella.tables import format_size, format_table, terminal_width
from lamella.training.objective import Objective
from lamella.training.parameter_groups import ParameterGroup
from lamella.training.task import Task

WIDTH = 80  # columns of the report, if the terminal has as many
SHOWN_SAMPLES = 3
SHOWN_VALUES = 6  # of a tensor, for programs
RECTIFIERS = ("ReLU", "ReLU6")  # layers whose units may be dead: 0 for every sample


class Section(NamedTuple):
    """One section of the report. data: what becomes JSON."""

    data: object
    text: str


def layers_section(plan: Plan, network: nn.Module, batch: int, freeze: Freeze) -> Section:
    """Describe each layer by its shapes, parameters and multiply-adds. batch: the number of samples of a batch.

    plan: that of the network. The table names the layers as the modules are named, and as `network.freeze` takes them.
    freeze: as in `freeze_parameters`.
    """
    layers, names = plan.trace, _module_names(plan, network)
    values = sum(math.prod(layer.output) for layer in layers)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    lines = [
        layer_table(
            [replace(row, place=name) for row, name in zip(layers, names, strict=True)],
            batch,
            int(terminal_width()) if terminal_width() < math.inf else WIDTH,
        ),
        _wrapped(
            f"mult-adds (multiplications with an addition) are of one sample; weights {format_size(weights)}; "
            f"the outputs of all layers for a batch take {format_size(4 * batch * values)}"
        ),
    ]
    last = last_frozen_epochs(network, freeze)
    frozen = {name: value.numel() for name, value in network.named_parameters() if not value.requires_grad}
    for epoch in sorted({last.get(name, math.inf) for name in frozen}):
        sizes = {name: size for name, size in frozen.items() if last.get(name, math.inf) == epoch}
        until = f" until the end of epoch {epoch}" if math.isfinite(epoch) else ""
        lines.append(_wrapped(f"frozen{until}: {sum(sizes.values()):,} parameters ({', '.join(sizes)})"))
    data = [{**vars(layer), "module": name} for layer, name in zip(layers, names, strict=True)]
    return Section(data, "\n".join(lines))


def groups_section(groups: Mapping[str, Sequence[ParameterGroup]]) -> Section:
    """List the groups of parameters of each optimizer, by its key in the config."""
    lines = []
    for key, own in groups.items():
        rows = [
            [
                group.optimizer,
                f"{group.lr:g}",
                f"{group.weight_decay:g}",
                f"{group.numbers:,}",
                names_text(group.names, 4),
            ]
            for group in own
        ]
        head = ["", "lr", "weight decay", "numbers", "names"]
        lines += [f"Groups of parameters of {key}", format_table([head, *rows])]
    return Section({key: [vars(group) for group in own] for key, own in groups.items()}, "\n".join(lines))


def _module_names(plan: Plan, network: nn.Module) -> list[str]:
    """Return the name of the module of each layer, or its config key where the layers do not run one by one."""
    keys, names = [row.place for row in plan.trace], list[str]()
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    try:
        with eval_mode(network), leaf_hooks(network, _ignore, lambda name, *_: names.append(name)):
            network(plan.zeros(1, device))
    except Exception:  # for example, the network takes no inputs of zeros
        return keys
    if len(names) != len(keys):
        return keys
    return [name or key for name, key in zip(names, keys, strict=True)]  # a network that is one layer has no name


def _ignore(*values: object) -> None:
    """Do nothing before a layer runs."""


def left_out_section(reason: str) -> Section:
    """Say why no batch is run through the network."""
    return Section(reason, _wrapped(f"No batch is run through the network: {reason}"))


def batch_section(
    network: nn.Module, objective: Objective, classes: Sequence[str], inputs: Tensor, targets: Tensor
) -> Section:
    """Run a batch (B, …) through the network in evaluation mode, and compare the output with the targets (B, …)."""
    with eval_mode(network):
        output = network(inputs)
    activation = objective.activation
    has_labels = objective.is_classifier and activation == "sigmoid"  # each output is a label of its own
    targets = objective.indices(targets)
    has_classes = objective.kind == "classes" and targets.dim() == 1 and not has_labels
    data: dict[str, object] = {
        "output": output.tolist(),
        "targets": targets.tolist(),
        "requires_grad": output.requires_grad,
    }
    lines = [
        _wrapped(f"A batch of {len(inputs)} training samples (at most {SHOWN_SAMPLES} shown), in evaluation:"),
        f"no gradient is tracked, requires_grad={output.requires_grad}",
        _tensor_text("logits" if has_classes and activation else "output", output),
    ]
    if has_classes or has_labels:
        chances = objective.probabilities(output)
        data["probabilities"] = chances.tolist()
        rules = {"softmax": ": softmax, each row sums to 1", "sigmoid": ": sigmoid, one label at a time"}
        rule = rules.get(activation or "", ": those that the network gives")
        lines.append(_tensor_text("probabilities", chances, rule))
    if has_classes:
        predicted = [classes[number] for number in chances.argmax(1).tolist()]
        true = [classes[number] for number in targets.tolist()]
        data |= {"predicted": predicted, "true": true}
        lines += [
            f"sample {number}: predicted {predicted[number]} ({float(chances[number].max()):.4f}), true {true[number]}"
            for number in range(min(SHOWN_SAMPLES, len(inputs)))
        ]
    else:
        lines.append(_tensor_text("targets", targets))
    return Section(data, "\n".join(lines))


def parameters_section(network: nn.Module) -> Section:
    """List each parameter with its size and its first values."""
    data, lines = [], ["Parameters"]
    for number, (name, value) in enumerate(network.named_parameters()):
        frozen = not value.requires_grad
        data.append({"name": name, "size": list(value.shape), "frozen": frozen, "first": _first_values(value)})
        lines.append(f"{number}  {name} | Size: {value.size()}{' | frozen' if frozen else ''}\n{_first_rows(value)}")
    return Section(data, "\n".join(lines))


def activations_section(network: nn.Module, inputs: Tensor) -> Section:
    """List the values before and after each layer, for the inputs (B, …) of a batch."""
    data: list[object] = []
    lines = ["Activations before and after each layer: the first sample's values, the batch's", "statistics"]
    for activation in activations(network, inputs):
        dead = activation.dead if activation.layer in RECTIFIERS else 0
        data.append(
            {
                "name": activation.name,
                "layer": activation.layer,
                "dead": dead,
                "units": activation.units,
                "before": _values_data(activation.before),
                "after": _values_data(activation.after),
            }
        )
        lines += _activation_lines(activation, dead)
    return Section(data, "\n".join(lines))


def gradients_section(task: Task, inputs: Tensor, targets: Tensor, passed: Backward) -> Section:
    """Describe a forward and backward pass, and compare its gradients with finite differences."""
    z, loss = passed.output, passed.loss
    data: list[object] = []
    lines = [
        "Forward, loss, backward, as a step of training takes them",
        f"z {tuple(z.shape)}, requires_grad={z.requires_grad}\n{_first_rows(z)}",
        f"loss = {loss.item():.6f}, grad_fn={loss.grad_fn and loss.grad_fn.name()}",
    ]
    for name, value in passed.parameters.items():
        gradient = value.grad
        if gradient is None:
            lines.append(f"{name}.grad is None: {'no gradient reaches it' if value.requires_grad else 'frozen'}")
            data.append({"name": name, "size": list(value.shape), "gradient": None})
            continue
        norm = float(gradient.norm())
        lines.append(f"{name}.grad {tuple(gradient.shape)}, norm {norm:.6f}\n{_first_rows(gradient)}")
        data.append({"name": name, "size": list(value.shape), "norm": norm, "first": _first_values(gradient)})
    check: GradientCheck | None = None
    try:
        check = check_gradients(task, inputs, targets)
        lines += _check_lines(check)
    except RuntimeError as error:  # some networks do not compute in double precision
        lines.append(_wrapped(f"not checked by finite differences: {first_line(error)}"))
    return Section({"loss": loss.item(), "parameters": data, "check": check and vars(check)}, "\n".join(lines))


def graph_section(graph: list[GraphNode], file: Path | None) -> Section:
    """List the nodes of the computational graph. file: where the graph was drawn, if it was."""
    lines = [
        "The computational graph, from the loss to the leaves, which are the parameters:",
        "number, operation (grad_fn), shape, what it was computed from",
        *graph_text(graph),
        *([f"drawn in {file}"] if file else []),
    ]
    return Section([vars(node) for node in graph], "\n".join(lines))


def _activation_lines(activation: Activation, dead: int) -> list[str]:
    """Return the lines about one layer. dead: how many of its units are 0 for every sample."""
    before, after = activation.before, activation.after
    lines = [f"{activation.name}  {activation.layer}  {before.shape} -> {after.shape}"]
    for word, values in (("before", before), ("after", after)):
        numbers = " ".join(f"{value:8.4f}" for value in values.first[:3].tolist())
        lines.append(
            f"  {word:<6} {numbers} …  zeros {values.zeros:6.1%}  mean {values.mean:8.4f}  std {values.std:.4f}"
        )
    if dead:
        lines.append(f"  dead: {dead} of {activation.units} units are 0 for every sample of the batch")
    return lines


def _values_data(values: Values) -> dict[str, object]:
    return vars(values) | {"first": values.first[:SHOWN_VALUES].tolist()}


def _check_lines(check: GradientCheck) -> list[str]:
    """Return the lines about the comparison with finite differences."""
    verdict = ("agrees" if check.passed else "DISAGREES") if check.entries else "has nothing to check"
    lines = [f"{check.kinks} entries are left out of the check: the loss has a kink there"] if check.kinks else []
    return [
        *lines,
        _wrapped(
            f"{check.entries} entries by finite differences, float64: largest error {check.error:.0e}; "
            f"gradcheck {verdict}"
        ),
    ]


def _tensor_text(name: str, tensor: Tensor, rule: str = "") -> str:
    """Return a line with the name and shape of a tensor (B, …), and then the values of the first samples."""
    return f"{name} {tuple(tensor.shape)}{rule}\n{tensor[:SHOWN_SAMPLES].cpu()}"


def _first_rows(tensor: Tensor) -> Tensor:
    """Return the first two rows of a tensor, or the whole of a small one."""
    tensor = tensor.detach().cpu()
    return tensor if tensor.numel() <= 60 else tensor[:2]


def _first_values(tensor: Tensor) -> list[float]:
    values: list[float] = tensor.detach().flatten()[:SHOWN_VALUES].tolist()
    return values


def report_width() -> int:
    """Return the number of columns that the lines of the report may have."""
    return int(min(WIDTH, terminal_width()))


def _wrapped(text: str) -> str:
    return textwrap.fill(text, report_width(), subsequent_indent="  ", break_long_words=False)
