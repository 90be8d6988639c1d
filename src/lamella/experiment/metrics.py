"""Build the metrics of a config, and try each on two made batches before a run begins."""

import inspect
import re
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lamella import signatures
from lamella.config.hints import options_of
from lamella.config.targets import check_target, instantiate, resolve_target
from lamella.config.values import Config
from lamella.data.samples import served
from lamella.errors import RequestError, first_line, nearest, own_frames
from lamella.training.epoch_metrics import Answers
from lamella.training.objective import Objective

TRIED = 4  # samples, in two batches
# The arguments that would change how Lamella updates and reduces a metric.
SET_BY_LAMELLA = (
    "validate_args",
    "dist_sync_on_step",
    "dist_sync_fn",
    "distributed_available_fn",
    "process_group",
    "sync_on_compute",
    "compute_with_cache",
)
SEVERAL_NUMBERS = ("average", "multidim_average", "multioutput", "reduction")  # arguments that make them one


def build_metrics(
    config: Mapping[str, Any], objective: Objective, output: tuple[int, ...], targets: Tensor
) -> dict[str, Metric]:
    """Return the metrics of the config group `metrics`, by name.

    output: the shape of the network's output for one sample. targets: of the training samples (N, …). Raises
    RequestError for a metric that is written wrong, or that cannot be counted for these outputs and targets.
    """
    metrics = {}
    for name, node in config.items():
        key = f"metrics.{name}"
        if objective.kind == "other":
            raise RequestError(f"{key}: this task compares no output with the targets, and {name} needs both", key)
        if not re.fullmatch(r"[A-Za-z]\w*", name):
            raise RequestError(f"{key}: the name of a metric is letters, digits and _, as in val/macro_f1", key)
        if name in ("loss", objective.metric):
            raise RequestError(f"{key}: {name} is always counted; choose another name, as metrics.my_{name}", key)
        metric = _built(node, key, objective, output)
        _try(metric, node, key, objective, output, targets)
        metrics[name] = metric
    return metrics


def check_monitor(monitor: str, counted: Collection[str], validates: bool, counts_more: bool) -> None:
    """Raise RequestError if no metric has the name of the one that decides which epoch is the best one.

    counted: the names of the metrics, without the stage. validates: whether there is a validation. counts_more: whether
    a step of the project's own may give further ones, which are known only after it was tried.
    """
    stages = ("val", "train") if validates else ("train",)
    known = [f"{stage}/{name}" for stage in stages for name in counted]
    if monitor in known or (counts_more and str(monitor).startswith(tuple(f"{stage}/" for stage in stages))):
        return
    why = (
        ""
        if validates
        else ";\n  without validation samples (data.val_size is 0) nothing is validated; write monitor=train/loss"
    )
    if (name := str(monitor).rpartition("/")[2]) not in counted and name in options_of("metrics"):
        why = f";\n  metrics=[{name}] counts {name} too"
    raise RequestError(f"monitor is {monitor!r}; this loss and data give {', '.join(known)}{why}", "monitor")


def _built(node: Config, key: str, objective: Objective, output: tuple[int, ...]) -> Metric:
    """Return the metric of a node, with the arguments that follow from the objective."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        check_target(node, key, Metric)
    target = resolve_target(node["_target_"], f"{key}._target_", Metric)
    _check_class(target, node["_target_"], key, objective)
    takes = signatures.parameters(target)
    offered = {name: value for name, value in _offered(objective, output).items() if name in takes and name not in node}
    for name in node:
        if name in SET_BY_LAMELLA:
            raise RequestError(f"{key}.{name}: Lamella sets this argument itself; leave it out", f"{key}.{name}")
        if str(name).startswith("_") or name in takes or not _is_torchmetrics(target):
            continue
        known = set(takes) - {"kwargs", "args", *SET_BY_LAMELLA}
        title = getattr(target, "__name__", target)
        raise RequestError(
            f"{key}.{name}: {title} has no such argument; {nearest(name, known)}", f"{key}.{name}", unknown=True
        )
    check_target(node, key, Metric, offered)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of how much memory it takes to keep all outputs
        metric = instantiate(node, key, **offered)
    if not isinstance(metric, Metric):
        raise RequestError(f"{key}: it gives {type(metric).__name__}, and no Metric of torchmetrics", key)
    _check_update(metric.update, type(metric).__name__, key)
    metric.persistent(True)  # lets its state be saved
    return metric


def _offered(objective: Objective, output: tuple[int, ...]) -> dict[str, object]:
    """Return the arguments that follow from what the network predicts."""
    if objective.kind == "numbers":
        return {"num_outputs": output[0]} if len(output) == 1 and output[0] > 1 else {}
    count = output[0 if objective.class_dim == 1 else -1] if output else 1
    if objective.kind == "labels":
        return {"task": "multilabel" if count > 1 else "binary", "num_labels": count}
    ignored = {} if objective.ignored is None else {"ignore_index": objective.ignored}
    return {"task": "multiclass", "num_classes": count, **ignored}


def _is_torchmetrics(target: object) -> bool:
    return str(getattr(target, "__module__", "")).startswith("torchmetrics.")


def _check_class(target: Callable[..., object], path: str, key: str, objective: Objective) -> None:
    """Raise RequestError for a class of torchmetrics that takes something else than outputs and targets."""
    place = str(getattr(target, "__module__", ""))
    if place.startswith("torchmetrics.wrappers."):
        raise RequestError(f"{key} is {path}, which wraps other metrics; write each as a metric of its own", key)
    if place.startswith("torchmetrics.text.") and not path.endswith(".Perplexity"):
        raise RequestError(f"{key} is {path}, which compares texts, and a network gives numbers", key)
    if place.startswith("torchmetrics.classification.") and objective.kind == "numbers":
        raise RequestError(f"{key} is {path}, which is for classes or labels; for numbers there is metrics=[r2]", key)
    if place.startswith("torchmetrics.regression.") and objective.kind == "classes":
        raise RequestError(f"{key} is {path}, which is for numbers; for classes there is metrics=[f1]", key)
    if _is_torchmetrics(target) and isinstance(target, type) and issubclass(target, Metric):
        _check_update(target.update, path, key)


def _check_update(update: Callable[..., object], title: str, key: str) -> None:
    """Raise RequestError for a metric whose `update` needs something else than `preds` and `target`."""
    named = [one for one in inspect.signature(update).parameters.values() if one.name != "self"]
    if any(one.kind is one.VAR_POSITIONAL for one in named):
        return  # the class that is made tells
    needed = [one.name for one in named if one.default is one.empty and one.kind is not one.VAR_KEYWORD]
    if len(needed) != 2 or needed[0] != "preds" or needed[1] not in ("target", "targets"):
        raise RequestError(
            f"{key} is {title}, whose update takes {', '.join(needed) or 'nothing'}; "
            "a metric here takes (preds, target), what the network gives and what it should give",
            key,
        )


def _try(
    metric: Metric, node: Config, key: str, objective: Objective, output: tuple[int, ...], targets: Tensor
) -> None:
    """Count two made batches, and leave the metric as it was. Raises RequestError where that gives no number."""
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(TRIED, *output, generator=generator)
    answers = served(targets[torch.arange(TRIED) % len(targets)])
    title = type(metric).__name__
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # these few samples lack most of the classes
            for part in (slice(0, TRIED // 2), slice(TRIED // 2, TRIED)):
                metric.update(*Answers(objective, outputs[part], answers[part]).inputs(metric))
            value = metric.compute()
    except Exception as error:
        raise RequestError(
            f"{key}: {title} cannot be counted for outputs {output} and these {objective.kind}: "
            f"{first_line(error)}{own_frames(error)}",
            key,
        ) from error
    averaged = isinstance(value, Tensor) and tuple(value.shape) == (getattr(metric, "num_outputs", None),)
    if not isinstance(value, Tensor) or not (value.numel() == 1 or (averaged and "num_outputs" not in node)):
        many = f"{value.numel()} numbers" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise RequestError(f"{key}: {title} gives {many}, and a metric is one{_hint(node, key)}", key)
    metric.reset()
    if hasattr(metric, "validate_args"):
        metric.validate_args = False  # the checks would wait for the device in each update


def _hint(node: Config, key: str) -> str:
    """Return what to write so that a metric gives one number, where an argument says how, or ""."""
    written = next((name for name in SEVERAL_NUMBERS if name in node), None)
    if written:
        return f"; leave out {key}.{written}"
    takes = signatures.parameters(resolve_target(node["_target_"], f"{key}._target_", Metric))
    return f"; write {key}.average=macro" if "average" in takes else ""
