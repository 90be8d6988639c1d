"""Call functions before and after each leaf module of a network: each layer without children, and attention."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from torch import Tensor, nn

from lamella.network.attention import SelfAttention
from lamella.network.layers import first_output
from lamella.network.selecting import Select

WHOLE = (SelfAttention, nn.TransformerEncoderLayer)  # layers that are leaves in spite of their children


def named_leaves(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the leaves of a network with their names."""
    inner = {part for whole in network.modules() if isinstance(whole, WHOLE) for part in whole.modules()}
    for name, leaf in network.named_modules():
        if isinstance(leaf, WHOLE) or (leaf not in inner and not any(leaf.children())):
            yield name, leaf


@contextmanager
def leaf_hooks(
    network: nn.Module,
    enter: Callable[[str, nn.Module, Tensor], None],
    leave: Callable[[str, nn.Module, Tensor, Tensor], None],
) -> Iterator[None]:
    """Call `enter` before and `leave` after each run of a leaf within the block.

    enter: called with the name of the leaf, the leaf and its input. leave: called with these and the output, of a tuple
    the first item. Runs of a leaf whose input or output is no tensor are left out. The input of a Select that gets all
    named inputs is the one that it selects.
    """

    def before(name: str, leaf: nn.Module, inputs: tuple[object, ...]) -> None:
        if (given := _given(leaf, inputs)) is not None:
            enter(name, leaf, given)

    def after(name: str, leaf: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        output = first_output(output)
        if (given := _given(leaf, inputs)) is not None and isinstance(output, Tensor):
            leave(name, leaf, given, output)

    hooks = []
    for name, leaf in named_leaves(network):
        hooks.append(leaf.register_forward_pre_hook(partial(before, name)))
        hooks.append(leaf.register_forward_hook(partial(after, name)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _given(leaf: nn.Module, inputs: tuple[object, ...]) -> Tensor | None:
    """Return the tensor that a leaf is called with first, None if it is called with none."""
    given = inputs[0] if inputs else None
    if isinstance(leaf, Select) and isinstance(given, Mapping):
        given = given[leaf.name]
    return given if isinstance(given, Tensor) else None
