"""torch.nn's layers by name: their arguments from YAML, and the input size that YAML leaves out."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from lamella.errors import RequestError
from lamella.signatures import check_call, parameters

SPATIAL = {1: "(channels, length)", 2: "(channels, height, width)", 3: "(channels, depth, height, width)"}
# Which parameter of a torch.nn class is the size of what comes in, and where that size stands.
# LayerNorm follows the two examples of its documentation: an image as a whole, else the last dimension.
INFERRED: dict[str, Callable[[Tensor], Any]] = {
    "in_features": lambda x: x.shape[-1],
    "input_size": lambda x: x.shape[-1],
    "in_channels": lambda x: x.shape[1],
    "num_features": lambda x: x.shape[1],
    "num_channels": lambda x: x.shape[1],
    "normalized_shape": lambda x: tuple(x.shape[1:]) if x.dim() > 3 else (x.shape[-1],),
}
# The parameters that say how much there is of something; torch makes layers of nothing without a word.
SIZES = ("out_features", "out_channels", "hidden_size", "num_", "kernel_size")


def sample_shape(batch: Tensor) -> tuple[int, ...]:
    """The shape of one sample of a batch."""
    return tuple(batch.shape[1:])


def layer_class(name: Any) -> type[nn.Module] | None:
    """The layer of this name in torch.nn, None where there is none; containers such as ModuleList are none."""
    found = getattr(nn, name, None) if isinstance(name, str) and not name.startswith("Lazy") else None
    if not isinstance(found, type) or not issubclass(found, nn.Module) or issubclass(found, nn.Sequential):
        return None
    return None if found.forward is nn.Module.forward else found


def layer_names() -> list[str]:
    """The names of torch.nn's layers."""
    return [name for name in dir(nn) if layer_class(name)]


def sized_layer(name: str, argument: Any, x: Tensor, place: str) -> Callable[[], nn.Module]:
    """What makes the torch.nn layer `name` with these arguments for a batch such as `x`.

    argument: None, one value, a list (positional, after the inferred size) or a mapping (by keyword). Raises
    RequestError for an unknown argument, for a shape of another rank than the layer takes, and for a written size
    that `x` contradicts.
    """
    cls = layer_class(name)
    assert cls is not None
    expected = [name for name in parameters(cls) if name not in ("device", "dtype")]
    came = f"what comes in is {sample_shape(x)}"
    spatial = re.search(r"([123])d$", name)
    if spatial and x.dim() != int(spatial[1]) + 2 and not (name == "BatchNorm1d" and x.dim() == 2):
        also = "(features,) or " if name == "BatchNorm1d" else ""
        raise RequestError(f"{place}: {name} expects {also}{SPATIAL[int(spatial[1])]}, {came}", place)
    if "batch_first" in expected and x.dim() != 3:
        raise RequestError(f"{place}: {name} expects (length, features), {came}", place)
    if x.dim() < 2:
        raise RequestError(f"{place}: {name} expects at least one dimension beside the batch, {came}", place)

    inferred = next((parameter for parameter in expected if parameter in INFERRED), None)
    keywords = _keywords(name, argument, [parameter for parameter in expected if parameter != inferred], place)
    if "batch_first" in expected:
        # Batches come first everywhere here, and a recurrent layer would mix the samples otherwise.
        keywords.setdefault("batch_first", True)
    size = INFERRED[inferred](x) if inferred else None
    written = keywords.setdefault(inferred, size) if inferred else None
    first = next(iter(keywords), None)
    if first == "eps" and isinstance(keywords[first], int) and not isinstance(argument, Mapping):
        raise RequestError(
            f"{place}: {name} has its {inferred}={size} inferred, and its first value is eps; write `{name}` alone",
            place,
        )
    for parameter, value in keywords.items():
        if isinstance(value, int) and value < 1 and parameter.startswith(SIZES):
            raise RequestError(f"{place}: {name} has {parameter}={value}; it takes 1 or more", f"{place}.{name}")
    try:
        check_call(cls, keywords, place=f"{place}.{name}")
    except RequestError as error:
        value = argument if isinstance(argument, str) else None
        if value and re.fullmatch(r"[a-z_]+(\.\w+)+", value):
            raise RequestError(f"{error}; the value of a key is written ${{{value}}}", error.key) from None
        if not inferred or not isinstance(argument, list):
            raise
        raise RequestError(f"{error}; {inferred} is inferred, and what is listed follows it", error.key) from None
    if written != size and not (inferred == "normalized_shape" and _ends_with(x, written)):
        raise RequestError(f"{place}: {name} has {inferred}={written}, {came}; leave it out, or write {size}", place)
    return partial(cls, **keywords)


def _keywords(name: str, argument: Any, names: list[str], place: str) -> dict[str, Any]:
    if argument is None:
        return {}
    if isinstance(argument, Mapping):
        return {str(key): _tuples(value) for key, value in argument.items()}
    values = argument if isinstance(argument, list | tuple) else [argument]
    if len(values) > len(names):
        hint = f"; for a list as one value write `{name}: {{{names[0]}: {list(values)}}}`" if names else ""
        taken = f"at most {', '.join(names)}" if names else "no arguments"
        raise RequestError(f"{place}: {name} takes {taken}, got {list(values)}{hint}", place)
    return {parameter: _tuples(value) for parameter, value in zip(names, values, strict=False)}


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _ends_with(x: Tensor, written: Any) -> bool:
    sizes = (written,) if isinstance(written, int) else tuple(written)
    return tuple(x.shape[x.dim() - len(sizes) :]) == sizes
