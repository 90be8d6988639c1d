"""The rank of this process among the processes that share one run."""

import os
from typing import TypeVar

T = TypeVar("T")
# Lightning gives each process its rank and its peers in these variables, and Lamella the run directory in the last.
RANK_VARIABLES = (
    "LOCAL_RANK",
    "RANK",
    "WORLD_SIZE",
    "NODE_RANK",
    "GROUP_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "LAMELLA_RUN",
)
RUN_DIRECTORY = "LAMELLA_RUN"


def rank() -> int:
    """Return the rank of this process: 0 for the process that keeps the record of the run."""
    return int(os.environ.get("LOCAL_RANK", 0))


def of_all_ranks(state: T) -> list[T]:
    """Return the `state` of each rank, which all ranks have to call for: plain values, and tensors on the CPU."""
    import torch.distributed

    if not torch.distributed.is_initialized():
        return [state]
    states: list[T] = [state] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(states, state)
    return states


def is_ranked() -> bool:
    """Return True in a process that was given a rank by the process or launcher that started it."""
    return "LOCAL_RANK" in os.environ
