"""Read the config group `device`: where a run takes place, and with how many processes and threads."""

import ctypes
import os
from contextlib import suppress
from dataclasses import dataclass

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import SingleDeviceStrategy, Strategy, StrategyRegistry
from torch import nn

from lamella.config.targets import resolve_target
from lamella.config.values import Config
from lamella.errors import RequestError, nearest
from lamella.signatures import check_call

# The modes of torch.compile.
MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
TIMED = ("max-autotune", "max-autotune-no-cudagraphs")  # the modes that choose kernels by the time that these take
THREADS = torch.get_num_threads()  # the number that torch takes by itself
# Options of glibc's mallopt with the values that a run takes: how much memory may be free at the end of the heap before
# it is given back, and from which size on a block is mapped by itself, at most 32 MiB.
MALLOC = {-1: 2**31 - 1, -3: 2**25}
BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")  # the features of CPUs that compute with bfloat16


@dataclass(frozen=True)
class Device:
    """The place and the precision of a run.

    accelerator: "cpu", "cuda" or "mps". precision: by Lightning's names. deterministic: whether operations that do not
    give the same bits each time are refused; on the CPU there are none. graph: whether chunks are trained with CUDA
    graphs. threads: the number of CPU threads of torch. compile: the mode of torch.compile with which training steps
    are compiled, None to compile none. channels_last: whether the weights of convolutions are in memory with the
    channels last, None if a measurement decides.
    """

    accelerator: str
    precision: str
    deterministic: bool
    graph: bool
    threads: int
    compile: str | None
    channels_last: bool | None

    def configure_process(self) -> None:
        """Prepare this process for training or evaluation: set the threads of torch, and keep freed memory."""
        keep_freed_memory()
        if self.accelerator != "cuda" and not torch.cuda.is_available():
            # torch's optimizers look for a GPU in every step, which takes as long as a step of a small layer. With this
            # variable set, they do not open a CUDA library.
            os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
        torch.set_num_threads(self.threads)

    def notes(self) -> list[str]:
        """Return what a user should know of the precision on this machine."""
        if self.accelerator != "cpu" or not str(self.precision).startswith("bf16"):
            return []
        if any(torch.cpu.get_capabilities().get(name) for name in BFLOAT16):
            return []
        return [
            f"device.precision is {self.precision}, but this CPU has no instructions for bfloat16; a step may take "
            "several times as long as with 32-true"
        ]

    def make_double(self, module: nn.Module) -> None:
        """Convert a module to float64 if that is the precision of the device, before a checkpoint is restored.

        Lightning converts it later than that, when the weights of the checkpoint have been rounded to float32.
        """
        if str(self.precision) in ("64", "64-true"):
            module.double()

    @classmethod
    def of(cls, node: Config) -> "Device":
        """Return the device that the config group describes, on this machine.

        Raises RequestError for a value that is not allowed, and for an accelerator that the machine lacks.
        """
        check_call(device_keys, node, place="device", title="device")
        check_call(pl.Trainer, {"precision": node["precision"]}, place="device", title="Trainer")
        accelerator, deterministic = _accelerator(node["accelerator"]), node.get("deterministic", False)
        threads, graph = _threads(node["threads"]), _graph(node.get("graph", "auto"))
        compile = _compile(node.get("compile", False), node["precision"], deterministic)
        # A graph may have other bits than the eager network, and the lengths of chunks depend on the time.
        graph = graph and accelerator == "cuda" and not deterministic
        channels_last = _channels_last(node.get("channels_last", False))
        if compile and channels_last is None:
            raise RequestError(
                "device.channels_last is auto, which measures steps that are not compiled, and device.compile is set; "
                "write device.channels_last=true or false",
                "device.channels_last",
            )
        if deterministic and channels_last is None:
            channels_last = False
        return cls(accelerator, node["precision"], deterministic, graph, threads, compile, channels_last)


def keep_freed_memory() -> None:
    """Let the C library reuse the memory that tensors free, instead of giving it back to the system in each step.

    The system clears each page that it gives again, which takes a fifth of a step of a small convolutional network.
    Nothing is changed for another C library than glibc, and where an environment variable configures it.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in MALLOC.items():
            mallopt(option, value)


def device_keys(
    accelerator: str,
    precision: str | int,
    threads: int | None = None,
    deterministic: bool = False,
    graph: object = "auto",  # checked by _graph, whose message names both values
    compile: object = False,  # checked by _compile, whose message names all values
    channels_last: object = False,  # checked by _channels_last
) -> None:
    """Do nothing: this function has the signature of the config group."""


def _accelerator(name: str) -> str:
    """Return the accelerator that `device.accelerator` stands for. Raise RequestError if the machine lacks it."""
    accelerator, present = resolve_accelerator(name), present_accelerators()
    if accelerator not in present:
        raise RequestError(
            f"device.accelerator is {accelerator!r}; {nearest(accelerator, present)}", "device.accelerator"
        )
    if not present[accelerator]:
        raise RequestError(
            f"device.accelerator is {accelerator!r}, but this machine has none; use device=auto or device=cpu",
            "device.accelerator",
        )
    return accelerator


def _threads(number: int | None) -> int:
    """Return the number of threads, torch's own for None. Raise RequestError if it is less than 1."""
    if number is not None and number < 1:
        raise RequestError(f"device.threads is {number}; it takes 1 or more", "device.threads")
    return THREADS if number is None else number


def _graph(value: object) -> bool:
    """Return whether `device.graph` allows CUDA graphs. Raise RequestError for other values than "auto" and False."""
    if value not in ("auto", False):
        raise RequestError(f"device.graph is {value!r}; it takes auto or false", "device.graph")
    return bool(value)


def _channels_last(value: object) -> bool | None:
    """Return what `device.channels_last` says, None for "auto". Raise RequestError for other values."""
    if value == "auto":
        return None
    if not isinstance(value, bool):
        raise RequestError(f"device.channels_last is {value!r}; it takes true, false or auto", "device.channels_last")
    return value


def _compile(value: object, precision: object, deterministic: bool) -> str | None:
    """Return the mode of torch.compile that `device.compile` stands for, None for False.

    precision, deterministic: the other keys. Raises RequestError for an unknown mode, and for what contradicts them.
    """
    if value is False:
        return None
    if value is not True and (not isinstance(value, str) or value not in MODES):
        raise RequestError(
            f"device.compile is {value!r}; it takes true, false, or a mode of torch.compile: {', '.join(MODES)}",
            "device.compile",
        )
    if precision in ("16-mixed", "16", 16):
        raise RequestError(
            f"device.compile is {str(value).lower()}, but device.precision is {precision}, whose scaled loss compiled "
            "steps do not know; write device.precision=bf16-mixed",
            "device.compile",
        )
    if value in TIMED and deterministic:
        raise RequestError(
            f"device.compile is {value!r}, which chooses kernels by their time, but device.deterministic is true; "
            "write device.compile=true",
            "device.compile",
        )
    return "default" if value is True else str(value)


def resolve_accelerator(name: str) -> str:
    """Return `name`, or for "auto" the accelerator that this machine has: cuda, else mps, else cpu."""
    present = present_accelerators()
    return next(known for known in ("cuda", "mps", "cpu") if present[known]) if name == "auto" else name


def present_accelerators() -> dict[str, bool]:
    """Return the accelerators by name, and whether this machine has each."""
    return {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}


def process_count(node: Config, accelerator: str) -> int:
    """Return how many processes of one machine share the work of a run. node: the config group `trainer`."""
    devices = node.get("devices", 1)
    if devices in ("auto", -1, "-1"):
        devices = torch.cuda.device_count() if accelerator == "cuda" else 1
    if isinstance(devices, str):
        devices = int(devices) if devices.isdigit() else [name for name in devices.split(",") if name]
    return len(devices) if isinstance(devices, list) else int(devices)


def needs_own_program(node: Config, count: int) -> bool:
    """Return True if a run must be a program of its own, because Lightning starts the program again for each rank.

    node: the config group `trainer`. count: the number of processes.
    """
    return count > 1 or node.get("strategy", "auto") != "auto"


def strategy_kind(node: Config) -> tuple[type[Strategy], str]:
    """Return the class of a run's strategy, and how it starts processes, by torch's names for it.

    node: the config group `trainer`, whose strategy is a name or the config of an object. The class is Strategy itself
    for an unknown name, and for a function of the project's own, which may return any strategy.
    """
    strategy = node.get("strategy", "auto")
    if isinstance(strategy, dict) and "_target_" in strategy:
        target = resolve_target(strategy["_target_"], "trainer.strategy._target_", Strategy)
        return (target if isinstance(target, type) else Strategy), strategy.get("start_method", "popen")
    name = str(strategy).lower()
    if name not in StrategyRegistry:
        return (SingleDeviceStrategy if name == "auto" else Strategy), "popen"
    entry = StrategyRegistry[name]
    return entry["strategy"], entry["init_params"].get("start_method", "popen")


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an error says that memory has run out, which torch reports in several ways."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def available_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
