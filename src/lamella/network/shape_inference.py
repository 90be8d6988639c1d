"""Make torch.nn's layers from their names and their arguments in YAML, and infer the size of the input."""

import re
from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor, nn

from lamella.errors import RequestError
from lamella.signatures import check_call, parameters

SPATIAL = {1: "(channels, length)", 2: "(channels, height, width)", 3: "(channels, depth, height, width)"}
# The parameters of torch.nn's classes that are the size of the input, and where that size is in a batch.
# LayerNorm follows the two examples in its documentation: an image as a whole, everything else by its last dimension.
INFERRED: dict[str, Callable[[Tensor], int | tuple[int, ...]]] = {
    "in_features": lambda x: x.shape[-1],
    "input_size": lambda x: x.shape[-1],
    "in_channels": lambda x: x.shape[1],
    "num_features": lambda x: x.shape[1],
    "num_channels": lambda x: x.shape[1],
    "normalized_shape": lambda x: tuple(x.shape[1:]) if x.dim() > 3 else (x.shape[-1],),
}
# The parameters that count something. torch accepts 0, and makes layers without any output.
SIZES = ("out_features", "out_channels", "hidden_size", "num_", "kernel_size")


def sample_shape(batch: Tensor) -> tuple[int, ...]:
    """Return the shape of one sample of a batch, that is, without the first dimension."""
    return tuple(batch.shape[1:])


def layer_class(name: object) -> type[nn.Module] | None:
    """Return the layer of torch.nn with this name, or None. Containers such as ModuleList are no layers."""
    found = getattr(nn, name, None) if isinstance(name, str) and not name.startswith("Lazy") else None
    if not isinstance(found, type) or not issubclass(found, nn.Module) or issubclass(found, nn.Sequential):
        return None
    return None if found.forward is nn.Module.forward else found


def layer_names() -> list[str]:
    """Return the names of torch.nn's layers."""
    return [name for name in dir(nn) if layer_class(name)]


def sized_layer(name: str, argument: object, x: Tensor, place: str) -> Callable[[], nn.Module]:
    """Return a function that makes the torch.nn layer `name` for batches such as `x`.

    argument: None, a single value, a list (positional, after the inferred size) or a mapping (by keyword). place: the
    config key of the layer. Raises RequestError for an unknown argument, for a shape that has another number of
    dimensions than the layer takes, and for a written size that differs from that of `x`.
    """
    cls = layer_class(name)
    assert cls is not None
    expected = [parameter for parameter in parameters(cls) if parameter not in ("device", "dtype")]
    _check_dimensions(name, expected, x, place)
    inferred = next((parameter for parameter in expected if parameter in INFERRED), None)
    keywords = _keywords(name, argument, [parameter for parameter in expected if parameter != inferred], place)
    if "batch_first" in expected:
        # The batch is the first dimension everywhere in Lamella. Otherwise a recurrent layer would mix the samples.
        keywords.setdefault("batch_first", True)
    if inferred:
        keywords.setdefault(inferred, INFERRED[inferred](x))
        _check_no_eps(name, argument, keywords, inferred, place)
    _check_counts(name, keywords, place)
    _check_arguments(cls, argument, keywords, inferred, f"{place}.{name}")
    if inferred:
        _check_size(name, inferred, keywords[inferred], x, place)
    return partial(cls, **keywords)


def _check_dimensions(name: str, expected: list[str], x: Tensor, place: str) -> None:
    """Raise RequestError if `x` has another number of dimensions than the layer takes."""
    spatial = re.search(r"([123])d$", name)
    if spatial and x.dim() != int(spatial[1]) + 2 and not (name == "BatchNorm1d" and x.dim() == 2):
        shape = ("(features,) or " if name == "BatchNorm1d" else "") + SPATIAL[int(spatial[1])]
    elif "batch_first" in expected and x.dim() != 3:
        shape = "(length, features)"
    elif x.dim() < 2:
        shape = "at least one dimension beside the batch"
    else:
        return
    raise RequestError(f"{place}: {name} expects {shape}, what comes in is {sample_shape(x)}", place)


def _check_no_eps(name: str, argument: object, keywords: Mapping[str, object], inferred: str, place: str) -> None:
    """Raise RequestError if a positional value, meant as the inferred size, would be taken for `eps`."""
    first = next(iter(keywords))
    if first == "eps" and isinstance(keywords[first], int) and not isinstance(argument, Mapping):
        raise RequestError(
            f"{place}: {name} has its {inferred}={keywords[inferred]} inferred, and its first value is eps; "
            f"write `{name}` alone",
            place,
        )


def _check_counts(name: str, keywords: Mapping[str, object], place: str) -> None:
    """Raise RequestError if an argument that counts something is less than 1."""
    for parameter, value in keywords.items():
        if isinstance(value, int) and value < 1 and parameter.startswith(SIZES):
            raise RequestError(f"{place}: {name} has {parameter}={value}; it takes 1 or more", f"{place}.{name}")


def _check_arguments(
    cls: type[nn.Module], argument: object, keywords: Mapping[str, object], inferred: str | None, place: str
) -> None:
    """Raise RequestError if the layer does not take the arguments, and add what was probably meant."""
    try:
        check_call(cls, keywords, place=place)
    except RequestError as error:
        if isinstance(argument, str) and re.fullmatch(r"[a-z_]+(\.\w+)+", argument):
            raise RequestError(f"{error}; the value of a key is written ${{{argument}}}", error.key) from None
        if not inferred or not isinstance(argument, list):
            raise
        raise RequestError(f"{error}; {inferred} is inferred, and what is listed follows it", error.key) from None


def _check_size(name: str, inferred: str, written: object, x: Tensor, place: str) -> None:
    """Raise RequestError if a written size is not that of `x`. For LayerNorm, the last dimensions of `x` will do."""
    size = INFERRED[inferred](x)
    if written != size and not (inferred == "normalized_shape" and _ends_with(x, written)):
        raise RequestError(
            f"{place}: {name} has {inferred}={written}, what comes in is {sample_shape(x)}; "
            f"leave it out, or write {size}",
            place,
        )


def _keywords(name: str, argument: object, names: list[str], place: str) -> dict[str, object]:
    """Return the argument of a layer in YAML as keyword arguments. names: the parameters of positional values."""
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


def _tuples(value: object) -> object:
    """Return a value with tuples in place of lists, as torch's constructors take them."""
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _ends_with(x: Tensor, written: object) -> bool:
    """Return True if the last dimensions of `x` have the written size or sizes."""
    sizes = written if isinstance(written, tuple) else (written,)
    return tuple(x.shape[x.dim() - len(sizes) :]) == sizes
