"""The shape of `run.json`."""

from types import NoneType
from typing import Any

RECORD_FORMAT = 1  # of run.json
STATES = ("running", "finished", "failed", "interrupted")
KINDS: dict[str, Any] = {  # what every reader takes for granted
    "status": str,
    "name": str,
    "overrides": list,
    "seed": int,
    "device": str,
    "images": bool,
    "metric": str,
    "reads": dict,
    "choices": dict,
    "epochs": int,
    "steps": int,
    "seconds": (int, float),
    "started": str,
    "metrics": dict,
    "best_epoch": (int, NoneType),
    "versions": dict,
    "git": (dict, NoneType),
}
LATER: dict[str, Any] = {"environment": dict, "inexact": list}  # what is there after the start
HELD: dict[str, Any] = {"overrides": str, "reads": str, "choices": str, "metrics": (int, float)}
