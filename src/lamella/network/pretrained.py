"""Make torchvision's networks without their pretrained weights."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import torch
from torch import nn

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum


@contextmanager
def without_pretrained_weights() -> Iterator[None]:
    """Let torchvision's networks have random weights within the block, where they ask for pretrained ones.

    What reads a run replaces all weights, and may not use the internet at the wish of the run's config. The argument
    `weights` cannot be left out instead, because it decides about some layers too.
    """
    import torchvision.models  # noqa: F401

    with _leaving_out(lambda weights: True):
        yield


@contextmanager
def without_reading_weights() -> Iterator[None]:
    """Leave pretrained weights that have been downloaded unread within the block, because nothing needs their values.

    Weights that are missing are downloaded, so that a network that cannot have them is refused here.
    """
    with _leaving_out(_is_downloaded):
        yield


def _is_downloaded(weights: "WeightsEnum") -> bool:
    return Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(weights.url).path).name).is_file()


@contextmanager
def _leaving_out(left_out: Callable[["WeightsEnum"], bool]) -> Iterator[None]:
    """Do not load the weights for which `left_out` returns True within the block."""
    if "torchvision.models" not in sys.modules:  # it takes long to import, and nothing here uses it
        yield
        return
    from torchvision.models import WeightsEnum

    read, load = WeightsEnum.get_state_dict, nn.Module.load_state_dict

    def read_unless_left_out(weights: WeightsEnum, *given: Any, **more: Any) -> Any:
        return _LeftOut() if left_out(weights) else read(weights, *given, **more)

    def load_unless_left_out(module: nn.Module, state: Any, *given: Any, **more: Any) -> Any:
        return None if isinstance(state, _LeftOut) else load(module, state, *given, **more)

    WeightsEnum.get_state_dict = read_unless_left_out
    nn.Module.load_state_dict = load_unless_left_out  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        WeightsEnum.get_state_dict, nn.Module.load_state_dict = read, load  # type: ignore[method-assign]


class _LeftOut(dict[str, object]):
    """The state of a network that keeps the weights that it was made with."""
