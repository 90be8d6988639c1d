"""Run a module on a batch before it is built: on the meta device, or on the CPU where the module needs values."""

import inspect
import warnings
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from lamella.errors import RequestError, causes, first_line, own_frames
from lamella.network.hints import further_inputs
from lamella.network.inputs import Inputs, first_tensor, shape_text, zeros_on_cpu
from lamella.network.layers import call_layer
from lamella.network.pretrained import without_reading_weights
from lamella.network.shape_inference import dtype_misfit, misfit
from lamella.network.trace import Trace, Unsuitable

Make = Callable[[], nn.Module]
MANY = 50_000_000  # the number of parameters from which it takes long to draw weights


def run_layer(trace: Trace, make: Make, x: Inputs, place: str, name: str) -> Tensor:
    """Return what the layer of torch.nn called `name` makes of `x`, and trace it. Raises RequestError."""
    return _run(trace, make, x, place, trace.whole, name)


def run_foreign(trace: Trace, make: Make, x: Inputs, place: str, tuples: bool) -> tuple[Make, Tensor]:
    """Return a function that builds the module that `make` makes, and what the module makes of `x`; trace its leaves.

    tuples: whether the module may return a tuple, of which the first item is passed on. Raises RequestError.
    """
    is_lazy = False

    def trace_leaves(module: nn.Module, x: Inputs, place: str) -> Tensor:
        nonlocal is_lazy
        if isinstance(x, Mapping):
            _check_keywords(module, x)
        elif others := further_inputs(module.forward):
            raise Unsuitable(
                f"it needs a further input ({', '.join(others)}), and a network gets one; call it in a module of your "
                "own, `_target_: mine.Block`"
            )
        is_lazy = any(isinstance(value, UninitializedParameter) for value in module.parameters())
        return trace.leaves(module, x, place, tuples)

    y = _run(trace, make, x, place, trace_leaves)
    return (partial(_build_lazy, make, x) if is_lazy else make), y


def _check_keywords(module: nn.Module, inputs: Mapping[str, Tensor]) -> None:
    """Raise Unsuitable if a module cannot be called with the named inputs by keyword."""
    try:
        inspect.signature(module.forward).bind(**inputs)
    except TypeError as error:
        taken = ", ".join(inspect.signature(module.forward).parameters)
        raise Unsuitable(f"the inputs are {', '.join(inputs)}, and its forward takes {taken or 'none'}") from error


def _run(
    trace: Trace,
    make: Make,
    x: Inputs,
    place: str,
    run: Callable[[nn.Module, Inputs, str], Tensor],
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
                    return run(module, zeros_on_cpu(x), place).to("meta")
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
    trace: Trace, error: Exception, module: nn.Module | None, x: Inputs, place: str, title: str
) -> RequestError:
    """Return the error for a module that cannot be made, which is None, or that cannot run on `x`."""
    cause, frames = first_line(error), own_frames(error)
    if module is None:
        return RequestError(f"{place}: {title}: {cause}{frames}", place)
    if trace.running:
        name, leaf, given = trace.running
        cause = misfit(leaf, given) or dtype_misfit(leaf, given) or cause
        if name != place:
            cause = f"{name}: {cause}"
        if given.shape == first_tensor(x).shape and isinstance(channels := getattr(leaf, "in_channels", None), int):
            # The first layer of a network for photographs, for example, takes three colours.
            before = f"Conv{given.dim() - 2}d: [{channels}, 1]"
            cause += f"; another layer can come before it, as in `layers: [{{{before}}}, {{_target_: …}}]`"
    elif title != "the module" and isinstance(x, Tensor):
        cause = dtype_misfit(module, x) or cause
    name = type(module).__name__ if title == "the module" else title
    return RequestError(f"{place}: {name} cannot take {shape_text(x)}: {cause}{frames}", place)


def _build_lazy(make: Make, inputs: Inputs) -> nn.Module:
    """Return a module whose sizes are known, and whose weights are drawn, only after it has run on a batch."""
    module = make()
    modes = {part: part.training for part in module.modules()}
    with torch.no_grad():
        call_layer(module.eval(), zeros_on_cpu(inputs))
    for part, training in modes.items():
        part.training = training
    return module
