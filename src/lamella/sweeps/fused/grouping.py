"""Group the jobs of a sweep that can be trained as one program: jobs that differ in numbers alone."""

import json
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytorch_lightning as pl
import torch
from torch import nn
from torch.optim import Optimizer

from lamella.config.targets import resolve_target
from lamella.config.values import Config
from lamella.errors import RequestError, first_line
from lamella.experiment.build import SUPERVISED, build_network
from lamella.network.freeze import read_freeze
from lamella.network.structure import network_signature
from lamella.runs.reader import read_record
from lamella.sweeps.fused.stack import NetworkStack
from lamella.sweeps.job import FUSED_NOTE, Job
from lamella.torch_internals import has_registered_buffers
from lamella.training.chunk_length import has_batch_hook
from lamella.training.device import needs_own_program, process_count, resolve_accelerator

# The optimizers that compute a step for each number by itself, wherever it is in the network.
NAMES = ("SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "RMSprop", "Rprop")
ELEMENTWISE = tuple(getattr(torch.optim, name) for name in NAMES)
SINGLE_RUN_OPTIONS = ("max_time", "profile", "profiler", "plugins", "detect_anomaly", "logger")  # of the Trainer


class FusedGroups:
    """Puts jobs into groups of at most `width` jobs. Raises RequestError if `width` is not a number of jobs.

    A run that has been started goes on as it was started: alone, or in a group even if no other member is left, so that
    its result has the bits that it would have had without an interruption.
    """

    def __init__(self, width: object) -> None:
        if isinstance(width, bool) or not isinstance(width, int) or width < 1:
            raise RequestError(f"hydra.launcher.width is {width!r}; it takes 1 or more", "hydra.launcher.width")
        self.width = width
        self.obstacles: dict[str, str] = {}  # for each kind of job, why such jobs cannot be fused, or ""
        self.networks: list[nn.Module] = []  # kept alive, because a signature may contain ids of their objects

    def of(self, jobs: Sequence[Job], at_a_time: int) -> tuple[list[list[Job]], Counter[str]]:
        """Return the groups, of which `at_a_time` run at a time, and how many jobs run alone for each reason."""
        kinds: dict[str, list[Job]] = {}
        alone: list[list[Job]] = []
        reasons: Counter[str] = Counter()
        for job in jobs:
            kind, obstacle = self.kind(job.config)
            if not obstacle and _was_fused(job) is False:
                obstacle = "begun without the others"
            reasons[obstacle] += bool(obstacle)
            if obstacle:
                alone.append([job])
            else:
                kinds.setdefault(kind, []).append(job)
        groups = []
        for alike in kinds.values():
            # Groups of equal size, so that all of them end at about the same time.
            count = -(-len(alike) // min(self.width, -(-len(jobs) // at_a_time)))
            for group in (alike[number::count] for number in range(count)):
                fused = len(group) > 1 or bool(_was_fused(group[0]))
                reasons[self._reason_to_run_alone(len(alike))] += not fused
                groups.append([replace(job, fused=fused) for job in group])
        return [*groups, *alone], +reasons

    def kind(self, config: Config) -> tuple[str, str]:
        """Return a text that is equal for jobs that can be fused, and why this job cannot be fused, or ""."""
        try:
            if obstacle := _obstacle_in_config(config):
                return "", obstacle
            # On the meta device the network has a structure, and no numbers.
            with torch.device("meta"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                network = build_network(config)[0]
                self.networks.append(network)
                common = {
                    "data": {key: value for key, value in config["data"].items() if key != "seed"},
                    "device": config["device"],
                    "freeze": read_freeze(config["network"].get("freeze")),
                    "network": network_signature(network),
                }
                kind = json.dumps(common, default=str)
                if kind not in self.obstacles:
                    self.obstacles[kind] = _obstacle_in_network(network, config)
            return kind, self.obstacles[kind]
        except RequestError as error:  # the job will print the whole error
            return "", first_line(error)

    def _reason_to_run_alone(self, alike: int) -> str:
        """Return why a job that could be fused runs alone. alike: how many jobs are of its kind."""
        if self.width == 1:
            return "hydra.launcher.width is 1"
        return "all of them fit at the same time" if alike > 1 else "no other job has the same network and data"


def _was_fused(job: Job) -> bool | None:
    """Return whether the run of a job was started as a member of a fused group, None if it has not been started."""
    if not (job.path / "run.json").exists():
        return None
    record = read_record(job.path)
    return FUSED_NOTE in record.get("inexact", []) if record.get("environment") else None


def _obstacle_in_config(config: Config) -> str:
    """Return why the steps of a run cannot be computed together with those of others, as far as its config tells."""
    trainer, data, device = config["trainer"], config["data"], config["device"]
    accelerator = resolve_accelerator(device["accelerator"])
    if needs_own_program(trainer, process_count(trainer, accelerator)):
        return "trainer: it has several processes"
    precision = trainer.get("precision", device["precision"])
    if str(precision) not in ("32", "32-true"):
        return f"device.precision is {precision}"
    if (layout := device.get("channels_last", False)) is not False:
        return f"device.channels_last is {str(layout).lower()}"
    if device.get("compile"):
        return "device.compile compiles the steps of a single run"
    if data["_target_"] != "lamella.data.Data":
        return f"data: {data['_target_']} makes batches of its own"
    if not (data.get("in_memory", True) or data.get("cache")):
        return "data.in_memory is false"
    if (target := config.get("task", {}).get("_target_", SUPERVISED)) != SUPERVISED:
        return f"task: {target} may have a step of its own"
    if any(epoch is not None for epoch in read_freeze(config["network"].get("freeze")).values()):
        return "network.freeze thaws parameters in the course of the run"
    if isinstance(data["shape"], dict):
        return "data: its samples have several inputs"
    if trainer.get("chunk", "auto") == 1:
        return "trainer.chunk is 1"
    if trainer.get("ema") is not None:
        return "trainer.ema averages the weights after each step"
    for key in SINGLE_RUN_OPTIONS:
        if trainer.get(key):
            return f"trainer.{key} is for one run in a process"
    return _obstacle_in_callbacks(config) or _obstacle_in_optimizer(config)


def _obstacle_in_callbacks(config: Config) -> str:
    """Return which callback needs each batch of its run, or ""."""
    callbacks = config["trainer"].get("callbacks") or []
    nodes = {f"trainer.callbacks.{number}": node for number, node in enumerate(callbacks)}
    nodes |= {f"visuals.{name}": node for name, node in config["visuals"].items()}
    for key, node in nodes.items():
        callback = resolve_target(node["_target_"], f"{key}._target_", pl.Callback)
        if not isinstance(callback, type) or has_batch_hook(callback):
            return f"{key}: {callback.__name__} looks at each batch"
    return ""


def _obstacle_in_optimizer(config: Config) -> str:
    """Return that the optimizer may not compute the same step for each number by itself, or ""."""
    for name in ("groups", "layer_decay"):
        if config["optimizer"].get(name) is not None:
            return f"optimizer.{name} gives parameters different options"
    optimizer = resolve_target(config["optimizer"]["_target_"], "optimizer._target_", Optimizer)
    if optimizer in ELEMENTWISE:
        return ""
    return f"optimizer: {getattr(optimizer, '__name__', optimizer)} may look at more than each number and its gradient"


def _obstacle_in_network(network: nn.Module, config: Config) -> str:
    """Return why networks like this one cannot be computed as one, tried with two of them on the meta device, or ""."""
    for module in network.modules():
        if has_registered_buffers(module) and not type(module).__module__.startswith("torch.nn."):
            return f"network: {type(module).__name__} may replace a buffer of its own"
    try:
        stack = NetworkStack([build_network(config)[0] for _ in range(2)], network)
        data = config["data"]
        dtype = getattr(torch, data.get("dtype", "float32"))
        outputs = stack(torch.zeros(2, data["batch_size"], *data["shape"], dtype=dtype))
        stack.gradients(outputs.flatten(1).sum(1))
    except Exception as error:
        return f"network: {first_line(error)}"
    return ""
