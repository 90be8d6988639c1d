"""The environment of a computation: what the last bits of its results depend on, beside the config."""

import platform
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch


def numeric_environment() -> dict[str, object]:
    """Return what decides how numbers are rounded on the CPU, as plain values."""
    return {
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "processor": processor(),
    }


def environment_changes(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """Return what has another value than before, as "torch 2.15.0 instead of 2.14.0"."""
    changed = [name for name, value in now.items() if before.get(name, value) != value]
    return [f"{name} {now[name]} instead of {before[name]}" for name in changed]


@cache
def processor() -> str:
    """Return the name of the CPU, on Linux with its family and model.

    Processors of one name, such as AMD EPYC, may belong to families for which matrix products are computed in another
    order, with other rounding. The file is read once, because each checkpoint holds the name.
    """
    try:
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(re.findall(r"^(.*?)\s*: (.*)$", first, re.M))
    numbers = [f"{word} {fields[key]}" for word, key in (("family", "cpu family"), ("model", "model")) if key in fields]
    return ", ".join([fields.get("model name", platform.machine()), *numbers])
