"""Make torchvision's networks without their pretrained weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torchvision.models import WeightsEnum


@contextmanager
def without_pretrained_weights() -> Iterator[None]:
    """Let torchvision's networks have random weights within the block, where they ask for pretrained ones.

    What reads a run replaces all weights, and may not use the internet at the wish of the run's config. The argument
    `weights` cannot be left out instead, because it decides about some layers too.
    """
    read, load = WeightsEnum.get_state_dict, nn.Module.load_state_dict

    def load_unless_left_out(module: nn.Module, state: Any, *given: Any, **more: Any) -> Any:
        return None if isinstance(state, _LeftOut) else load(module, state, *given, **more)

    WeightsEnum.get_state_dict = lambda self, *given, **more: _LeftOut()
    nn.Module.load_state_dict = load_unless_left_out  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        WeightsEnum.get_state_dict, nn.Module.load_state_dict = read, load  # type: ignore[method-assign]


class _LeftOut(dict[str, object]):
    """The state of a network that keeps the weights that it was made with."""
