"""The `device` group of a config: where a run takes place."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch

from lamella import arguments
from lamella.errors import RequestError, nearest

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

    @classmethod
    def of(cls, node: Mapping[str, Any]) -> "Device":
        """What the group says, on this machine; sets the number of torch's threads. Raises RequestError."""
        arguments.check(_device, node, place="device", title="device")
        accelerator = node["accelerator"]
        present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if not present["cuda"]:
            # torch's optimizers look for a GPU in every step; told that there is none, they open no library for it,
            # which takes as long as the step of a small layer.
            os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
        if accelerator == "auto":
            accelerator = next(name for name in ("cuda", "mps", "cpu") if present[name])
        arguments.check(pl.Trainer, {"precision": node["precision"]}, place="device", title="Trainer")
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
        torch.set_num_threads(threads)
        graph = node.get("graph", "auto")
        if graph not in ("auto", False):
            raise RequestError(f"device.graph is {graph!r}; it takes auto or false", "device.graph")
        deterministic = node.get("deterministic", False)
        # A graph's bits may be others than the network's, and where chunks end depends on the time.
        captured = bool(graph) and accelerator == "cuda" and not deterministic
        return cls(accelerator, node["precision"], deterministic, captured)


def _device(
    accelerator: str,
    precision: str | int,
    threads: int | None = None,
    deterministic: bool = False,
    graph: Any = "auto",  # whose refusal below says both values
) -> None:
    """The signature of the group."""
