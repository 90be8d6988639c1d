"""What each layer makes of a batch: the values before and after it."""

from dataclasses import dataclass

from torch import Tensor, nn

from lamella.network.eval_mode import eval_mode
from lamella.network.leaves import leaf_hooks


@dataclass(frozen=True)
class Values:
    """A batch of values at one place in the network. first: the first sample's, flattened. zeros: their share."""

    shape: tuple[int, ...]
    first: Tensor
    zeros: float
    mean: float
    std: float


@dataclass(frozen=True)
class Activation:
    """One layer at work. dead: how many of its `units` (features or channels) are 0 for the whole batch."""

    name: str
    layer: str
    before: Values
    after: Values
    dead: int
    units: int


def activations(network: nn.Module, inputs: Tensor) -> list[Activation]:
    """Run `network` on a batch in evaluation, without gradients; one item for each time that a layer runs."""
    found: list[Activation] = []
    entered: dict[str, Values] = {}

    def enter(name: str, layer: nn.Module, given: Tensor) -> None:
        # Here and not afterwards, for layers that work in place.
        entered[name] = _values(given)

    def leave(name: str, layer: nn.Module, given: Tensor, output: Tensor) -> None:
        # Channels are the second dimension, features the last one, of sequences too.
        units = output.movedim(-1 if output.dim() in (1, 3) else 1, 0)
        units = units.reshape(len(units), -1)
        dead = int((units == 0).all(1).sum())
        found.append(Activation(name, type(layer).__name__, entered[name], _values(output), dead, len(units)))

    with eval_mode(network), leaf_hooks(network, enter, leave):
        network(inputs)
    return found


def layer_outputs(network: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """What each layer of `network` gives for a batch in evaluation, by the layer's name."""
    found: dict[str, Tensor] = {}

    def leave(name: str, layer: nn.Module, given: Tensor, output: Tensor) -> None:
        found[name] = output.clone()  # the next layer may work in place

    with eval_mode(network), leaf_hooks(network, lambda name, layer, given: None, leave):
        network(inputs)
    return found


def _values(batch: Tensor) -> Values:
    numbers = batch.detach().float()
    spread = float(numbers.std(correction=0))
    zeros = float((numbers == 0).float().mean())
    return Values(tuple(batch.shape), numbers[0].flatten().cpu(), zeros, float(numbers.mean()), spread)
