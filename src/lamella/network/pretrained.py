"""Make torchvision's networks without their pretrained weights, and find the files of these."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError
from urllib.parse import urlparse

import torch
from torch import nn

from lamella.errors import RequestError, nearest
from lamella.startup.lazy_modules import when_imported

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum


@contextmanager
def without_pretrained_weights() -> Iterator[None]:
    """Let torchvision's networks have random weights within the block, where they ask for pretrained ones.

    What reads a run replaces all weights, and may not use the internet at the wish of the run's config. The argument
    `weights` cannot be left out instead, because it decides about some layers too.
    """
    with _leaving_out(lambda weights: True):
        yield


@contextmanager
def without_reading_weights() -> Iterator[None]:
    """Leave pretrained weights that have been downloaded unread within the block, because nothing needs their values.

    Weights that are missing are downloaded, so that a network that cannot have them is refused here.
    """
    with _leaving_out(lambda weights: _downloaded_file(weights).is_file()):
        yield


def pretrained_file(builder: Callable[..., object], name: str) -> Path:
    """Return the file of the weights called `name` for a network that `builder` makes, and download it if need be.

    Raises RequestError where there are no such weights, and where they cannot be downloaded.
    """
    weights = _weights_of(builder, name)
    path = _downloaded_file(weights)
    if not path.is_file():
        digits = re.search(r"-([0-9a-f]{8,})\.", path.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(weights.url, str(path), digits and digits[1], progress=False)
        except (OSError, RuntimeError) as error:
            raise _unreachable(weights, error) from error
    return path


def pretrained_normalization(
    builder: Callable[..., object], name: str
) -> tuple[list[float] | None, list[float] | None]:
    """Return the mean and the standard deviation of the pixels with which weights of torchvision were trained."""
    transforms = _weights_of(builder, name).transforms()
    return getattr(transforms, "mean", None), getattr(transforms, "std", None)


def _weights_of(builder: Callable[..., object], name: str) -> "WeightsEnum":
    from torchvision.models import get_model_weights

    known: dict[str, WeightsEnum] = {}
    with suppress(ValueError):  # torchvision has no weights for this network
        known = dict(get_model_weights(builder).__members__)
    if name not in known:
        hint = nearest(name, known) if known else "torchvision has no weights for this network"
        raise RequestError(f"network.weights is {name!r}; {hint}", "network.weights")
    return known[name]


def _unreachable(weights: "WeightsEnum", error: Exception) -> RequestError:
    """Return the error for weights that cannot be downloaded."""
    path = _downloaded_file(weights)
    return RequestError(
        f"network.weights: {weights} cannot be downloaded ({getattr(error, 'reason', error)});\n"
        f"  bring {weights.url}\n  to {path}",
        "network.weights",
    )


def _downloaded_file(weights: "WeightsEnum") -> Path:
    """Return the file in torch's cache for weights, which need not be there."""
    return Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(weights.url).path).name)


@contextmanager
def _leaving_out(left_out: Callable[["WeightsEnum"], bool]) -> Iterator[None]:
    """Do not load the weights for which `left_out` returns True within the block."""
    stack = ExitStack()
    # torchvision takes long to import, and most networks do not use it.
    with stack, when_imported("torchvision", lambda: stack.enter_context(_weights_left_out(left_out))):
        yield


@contextmanager
def _weights_left_out(left_out: Callable[["WeightsEnum"], bool]) -> Iterator[None]:
    from torchvision.models import WeightsEnum

    read, load = WeightsEnum.get_state_dict, nn.Module.load_state_dict

    def read_unless_left_out(weights: WeightsEnum, *given: Any, **more: Any) -> Any:
        try:
            return _LeftOut() if left_out(weights) else read(weights, *given, **more)
        except URLError as error:
            raise _unreachable(weights, error) from error

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
