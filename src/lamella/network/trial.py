"""Run a module on a batch before it is built: on the meta device, or on the CPU where the module needs values."""

import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from lamella.errors import RequestError, causes, first_line, own_frames
from lamella.network.hints import further_inputs
from lamella.network.pretrained import without_reading_weights
from lamella.network.shape_inference import misfit, sample_shape
from lamella.network.trace import Trace, Unsuitable

Make = Callable[[], nn.Module]
MANY = 50_000_000  # the number of parameters from which it takes long to draw weights


def run_layer(trace: Trace, make: Make, x: Tensor, place: str, name: str) -> Tensor:
    """Return what the layer of torch.nn called `name` makes of `x`, and trace it. Raises RequestError."""
    return _run(trace, make, x, place, trace.whole, name)


def run_foreign(trace: Trace, make: Make, x: Tensor, place: str, tuples: bool) -> tuple[Make, Tensor]:
    """Return a function that builds the module that `make` makes, and what the module makes of `x`; trace its leaves.

    tuples: whether the module may return a tuple, of which the first item is passed on. Raises RequestError.
    """
    is_lazy = False

    def trace_leaves(module: nn.Module, x: Tensor, place: str) -> Tensor:
        nonlocal is_lazy
        if others := further_inputs(module.forward):
            raise Unsuitable(
                f"it needs a further input ({', '.join(others)}), and a network gets one; call it in a module of your "
                "own, `_target_: mine.Block`"
            )
        is_lazy = any(isinstance(value, UninitializedParameter) for value in module.parameters())
        return trace.leaves(module, x, place, tuples)

    y = _run(trace, make, x, place, trace_leaves)
    return (partial(_build_lazy, make, tuple(x.shape)) if is_lazy else make), y


def _run(
    trace: Trace,
    make: Make,
    x: Tensor,
    place: str,
    run: Callable[[nn.Module, Tensor, str], Tensor],
    title: str = "the module",
) -> Tensor:
    """Return what `run` gives for the module that `make` makes. title: the name of a module that cannot be made."""
    module = None
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # Weights that are loaded into a module on the meta device are left out, which torch reports for each one.
        warnings.filterwarnings("ignore", "for .*: copying from a non-meta parameter")
        try:
            try:
                with torch.device("meta"), without_reading_weights():
                    module = make()
                return run(module, x, place)
            except Exception as error:
                if _is_final(error, module):
                    raise
                # Some modules compute with values while they are made or run, which takes real tensors.
                module = None
                with torch.device("cpu"):
                    module = make()
                    return run(module, torch.zeros(x.shape), place).to("meta")
        except RequestError:
            raise
        except Exception as error:
            raise _refusal(trace, error, module, x, place, title) from error


def _is_final(error: Exception, module: nn.Module | None) -> bool:
    """Return True if a module that failed on the meta device would fail on the CPU too, or only after a long time.

    module: None if it could not be made.
    """
    # A download, for example, would fail once more.
    if isinstance(error, Unsuitable) or any(isinstance(cause, OSError) for cause in causes(error)):
        return True
    is_large = module is not None and sum(value.numel() for value in module.parameters()) > MANY
    return is_large and "meta" not in str(error)


def _refusal(
    trace: Trace, error: Exception, module: nn.Module | None, x: Tensor, place: str, title: str
) -> RequestError:
    """Return the error for a module that cannot be made, which is None, or that cannot run on `x`."""
    cause, frames = first_line(error), own_frames(error)
    if module is None:
        return RequestError(f"{place}: {title}: {cause}{frames}", place)
    if trace.running:
        name, leaf, given = trace.running
        cause = misfit(leaf, given) or cause
        if name != place:
            cause = f"{name}: {cause}"
        if given.shape == x.shape and isinstance(channels := getattr(leaf, "in_channels", None), int):
            # The first layer of a network for photographs, for example, takes three colours.
            before = f"Conv{x.dim() - 2}d: [{channels}, 1]"
            cause += f"; another layer can come before it, as in `layers: [{{{before}}}, {{_target_: …}}]`"
    return RequestError(f"{place}: {type(module).__name__} cannot take {sample_shape(x)}: {cause}{frames}", place)


def _build_lazy(make: Make, shape: tuple[int, ...]) -> nn.Module:
    """Return a module whose sizes are known, and whose weights are drawn, only after it has run on a batch."""
    module = make()
    modes = {part: part.training for part in module.modules()}
    with torch.no_grad():
        module.eval()(torch.zeros(shape))
    for part, training in modes.items():
        part.training = training
    return module
