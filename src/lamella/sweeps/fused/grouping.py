"""Which jobs of a sweep can be trained as one program: those that differ in numbers alone."""

import json
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.optim import Optimizer

from lamella.config.targets import resolve_target
from lamella.errors import RequestError, first_line
from lamella.experiment.build import build_network
from lamella.network.structure import network_signature
from lamella.sweeps.fused.stack import NetworkStack
from lamella.sweeps.job import Job
from lamella.training.chunk_length import has_batch_hook
from lamella.training.device import needs_own_program, process_count, resolve_accelerator

# The optimizers for which a parameter is a row of numbers, wherever it lies in the network.
NAMES = ("SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "RMSprop", "Rprop")
ELEMENTWISE = tuple(getattr(torch.optim, name) for name in NAMES)


class FusedGroups:
    """Puts jobs together, at most `width` of them. Raises RequestError where that is no number of jobs."""

    def __init__(self, width: Any) -> None:
        if isinstance(width, bool) or not isinstance(width, int) or width < 1:
            raise RequestError(f"hydra.launcher.width is {width!r}; it takes 1 or more", "hydra.launcher.width")
        self.width = width
        self.checked: dict[str, str] = {}
        self.networks: list[nn.Module] = []  # what a signature tells apart has to be there

    def of(self, jobs: Sequence[Job], at_a_time: int) -> tuple[list[list[Job]], Counter[str]]:
        """The jobs in groups, of which so many run at a time, and why how many are trained by themselves."""
        kinds: dict[str, list[Job]] = {}
        reasons: Counter[str] = Counter()
        for job in jobs:
            kind, reason = self.kind(job.config)
            reasons[reason] += bool(reason)
            kinds.setdefault(str(job.path) if reason else kind, []).append(job)
        groups = []
        for kind, alike in kinds.items():
            # Balanced: all of them are to be over at about the same time.
            count = -(-len(alike) // min(self.width, -(-len(jobs) // at_a_time)))
            found = [alike[number::count] for number in range(count)]
            groups += found
            if kind in self.checked:
                reason = "there is room for each at once" if len(alike) > 1 else "no other has its network and data"
                reason = "hydra.launcher.width is 1" if self.width == 1 else reason
                reasons[reason] += sum(len(group) == 1 for group in found)
        return groups, +reasons

    def kind(self, config: Mapping[str, Any]) -> tuple[str, str]:
        """What jobs that can be trained as one have in common, and why this one cannot, if so."""
        try:
            if reason := _alone(config):
                return "", reason
            # Where torch has only what a network is made of, and no numbers.
            with torch.device("meta"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                network = build_network(config)[0]
                self.networks.append(network)
                common = {
                    "data": {key: value for key, value in config["data"].items() if key != "seed"},
                    "device": config["device"],
                    "freeze": config["network"].get("freeze"),
                    "network": network_signature(network),
                }
                kind = json.dumps(common, default=str)
                if kind not in self.checked:
                    self.checked[kind] = _computed(network, config)
            return kind, self.checked[kind]
        except RequestError as error:  # the job itself says more
            return "", first_line(error)


def _alone(config: Mapping[str, Any]) -> str:
    """Why a run has steps of its own, as far as its config tells; "" where it has not."""
    trainer, data, device = config["trainer"], config["data"], config["device"]
    accelerator = resolve_accelerator(device["accelerator"])
    if needs_own_program(trainer, process_count(trainer, accelerator)):
        return "trainer: it has several processes"
    precision = trainer.get("precision", device["precision"])
    if str(precision) not in ("32", "32-true"):
        return f"device.precision is {precision}"
    if data["_target_"] != "lamella.data.Data":
        return f"data: {data['_target_']} may depend on its seed"
    if not (data.get("in_memory", True) or data.get("cache")):
        return "data.in_memory is false"
    if trainer.get("chunk", "auto") == 1:
        return "trainer.chunk is 1"
    for key in ("max_time", "profiler", "plugins", "detect_anomaly", "logger"):
        if trainer.get(key):
            return f"trainer.{key} is for one run in a process"
    callbacks = {f"trainer.callbacks.{number}": node for number, node in enumerate(trainer.get("callbacks") or [])}
    callbacks |= {f"visuals.{name}": node for name, node in config["visuals"].items()}
    for key, node in callbacks.items():
        kind: Any = resolve_target(node["_target_"], f"{key}._target_", pl.Callback)
        if has_batch_hook(kind):
            return f"{key}: {kind.__name__} looks at each batch"
    optimizer: Any = resolve_target(config["optimizer"]["_target_"], "optimizer._target_", Optimizer)
    if optimizer not in ELEMENTWISE:
        return f"optimizer: {optimizer.__name__} may look at more than each number and its gradient"
    return ""


def _computed(network: nn.Module, config: Mapping[str, Any]) -> str:
    """Why networks like this one cannot be computed as one, tried with two that have no weights; "" where they can."""
    for part in network.modules():
        if part._buffers and not type(part).__module__.startswith("torch.nn."):
            return f"network: {type(part).__name__} may replace a buffer of its own"
    try:
        stack = NetworkStack([build_network(config)[0] for _ in range(2)], network)
        outputs = stack(torch.zeros(2, config["data"]["batch_size"], *config["data"]["shape"]))
        stack.gradients(outputs.flatten(1).sum(1))
    except Exception as error:
        return f"network: {first_line(error)}"
    return ""
