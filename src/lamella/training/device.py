"""The `device` group of a config: where a run takes place."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch

from lamella.errors import RequestError, nearest
from lamella.signatures import check_call

THREADS = torch.get_num_threads()  # what torch takes by itself


@dataclass(frozen=True)
class Device:
    """Where it runs. accelerator: "cpu", "cuda" or "mps". precision: as Lightning names it.

    deterministic: use only operations that give the same bits each time, or fail; on the CPU all do. graph: take the
    steps of a chunk with CUDA graphs.
    """

    accelerator: str
    precision: str
    deterministic: bool
    graph: bool
    threads: int

    def configure_process(self) -> None:
        """Set the number of torch's threads in this process, before it trains or evaluates."""
        if self.accelerator != "cuda" and not torch.cuda.is_available():
            # torch's optimizers look for a GPU in every step, which takes as long as the step of a small layer. With
            # this variable they open no CUDA library.
            os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
        torch.set_num_threads(self.threads)

    @classmethod
    def of(cls, node: Mapping[str, Any]) -> "Device":
        """Read the `device` group for this machine. Raises RequestError."""
        check_call(_device, node, place="device", title="device")
        accelerator, present = resolve_accelerator(node["accelerator"]), _present()
        check_call(pl.Trainer, {"precision": node["precision"]}, place="device", title="Trainer")
        if accelerator not in present:
            raise RequestError(
                f"device.accelerator is {accelerator!r}; {nearest(accelerator, present)}", "device.accelerator"
            )
        if not present[accelerator]:
            raise RequestError(
                f"device.accelerator is {accelerator!r}, but this machine has none; use device=auto or device=cpu",
                "device.accelerator",
            )
        threads = THREADS if node["threads"] is None else node["threads"]
        if threads < 1:
            raise RequestError(f"device.threads is {threads}; it takes 1 or more", "device.threads")
        graph = node.get("graph", "auto")
        if graph not in ("auto", False):
            raise RequestError(f"device.graph is {graph!r}; it takes auto or false", "device.graph")
        deterministic = node.get("deterministic", False)
        # A graph's bits may be others than the network's, and where chunks end depends on the time.
        captured = bool(graph) and accelerator == "cuda" and not deterministic
        return cls(accelerator, node["precision"], deterministic, captured, threads)


def _device(
    accelerator: str,
    precision: str | int,
    threads: int | None = None,
    deterministic: bool = False,
    graph: Any = "auto",  # whose refusal below says both values
) -> None:
    """The signature of the group."""


def resolve_accelerator(name: str) -> str:
    """Return `name`, or for "auto" the accelerator that this machine has: cuda, else mps, else cpu."""
    present = _present()
    return next(one for one in ("cuda", "mps", "cpu") if present[one]) if name == "auto" else name


def _present() -> dict[str, bool]:
    return {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}


def process_count(node: Mapping[str, Any], accelerator: str) -> int:
    """How many processes of one machine share the work of a run."""
    devices = node.get("devices", 1)
    if devices in ("auto", -1, "-1"):
        devices = torch.cuda.device_count() if accelerator == "cuda" else 1
    if isinstance(devices, str):
        devices = int(devices) if devices.isdigit() else [name for name in devices.split(",") if name]
    return len(devices) if isinstance(devices, list) else int(devices)


def needs_own_program(node: Mapping[str, Any], count: int) -> bool:
    """Whether a run of so many processes has to be a program, which Lightning starts again for each of them."""
    return count > 1 or node.get("strategy", "auto") != "auto"


def available_cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
