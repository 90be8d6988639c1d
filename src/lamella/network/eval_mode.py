"""Evaluate a network and leave it as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Set the evaluation mode and turn gradients off within the block; then restore modes and random generators."""
    modes = {module: module.training for module in network.modules()}
    devices = {value.device for value in network.parameters() if value.device.type == "cuda"}
    with torch.no_grad(), torch.random.fork_rng(devices=list(devices)):
        network.eval()
        try:
            yield
        finally:
            for module, training in modes.items():
                module.training = training
