"""Record what each layer computes for a batch: the values before and after the layer."""

from dataclasses import dataclass

from torch import Tensor, nn

from lamella.network.eval_mode import eval_mode
from lamella.network.leaves import leaf_hooks


@dataclass(frozen=True)
class Values:
    """Statistics of a batch of values at one place in the network.

    shape: of the batch. first: the values of the first sample, flattened. zeros: the share of values that are 0.
    """

    shape: tuple[int, ...]
    first: Tensor
    zeros: float
    mean: float
    std: float


@dataclass(frozen=True)
class Activation:
    """The input and the output of one layer.

    name: of the layer in the network. layer: its class. units: the number of features or channels of the output. dead:
    how many of these are 0 for the whole batch.
    """

    name: str
    layer: str
    before: Values
    after: Values
    dead: int
    units: int


def activations(network: nn.Module, inputs: Tensor) -> list[Activation]:
    """Run `network` on a batch in evaluation mode, without gradients, and return an item for each time a layer runs."""
    records: list[Activation] = []
    before: dict[str, Values] = {}

    def enter(name: str, layer: nn.Module, given: Tensor) -> None:
        # Before the layer runs, because it may change its input in place.
        before[name] = _values(given)

    def leave(name: str, layer: nn.Module, given: Tensor, output: Tensor) -> None:
        # Channels are the second dimension. Features are the last one, also for sequences.
        units = output.movedim(-1 if output.dim() in (1, 3) else 1, 0)
        units = units.reshape(len(units), -1)
        dead = int((units == 0).all(1).sum())
        records.append(Activation(name, type(layer).__name__, before[name], _values(output), dead, len(units)))

    with eval_mode(network), leaf_hooks(network, enter, leave):
        network(inputs)
    return records


def layer_outputs(network: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Return the output of each layer of `network` for a batch in evaluation mode, by the name of the layer."""
    outputs: dict[str, Tensor] = {}

    def leave(name: str, layer: nn.Module, given: Tensor, output: Tensor) -> None:
        outputs[name] = output.clone()  # the next layer may change the output in place

    with eval_mode(network), leaf_hooks(network, lambda name, layer, given: None, leave):
        network(inputs)
    return outputs


def _values(batch: Tensor) -> Values:
    """Return the statistics of a batch of values."""
    numbers = batch.detach().float()
    spread = float(numbers.std(correction=0))
    zeros = float((numbers == 0).float().mean())
    return Values(tuple(batch.shape), numbers[0].flatten().cpu(), zeros, float(numbers.mean()), spread)
