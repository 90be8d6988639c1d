"""Hooks around the leaf modules of a network, which are the layers that compute."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from torch import Tensor, nn

from lamella.network.layers import passed_on


@contextmanager
def leaf_hooks(
    network: nn.Module,
    enter: Callable[[str, nn.Module, Tensor], None],
    leave: Callable[[str, nn.Module, Tensor, Tensor], None],
) -> Iterator[None]:
    """Call `enter` before and `leave` after each run of a leaf that takes and returns a tensor.

    enter: called with the leaf's name, the leaf and its input. leave: called with its output too, of a tuple with the
    first item.
    """

    def before(name: str, leaf: nn.Module, given: tuple[object, ...]) -> None:
        if given and isinstance(given[0], Tensor):
            enter(name, leaf, given[0])

    def after(name: str, leaf: nn.Module, given: tuple[object, ...], output: object) -> None:
        output = passed_on(output)
        if given and isinstance(given[0], Tensor) and isinstance(output, Tensor):
            leave(name, leaf, given[0], output)

    hooks = []
    for name, leaf in network.named_modules():
        if not any(leaf.children()):
            hooks.append(leaf.register_forward_pre_hook(partial(before, name)))
            hooks.append(leaf.register_forward_hook(partial(after, name)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
