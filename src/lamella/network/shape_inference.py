"""Make torch.nn's layers from their names and their arguments in YAML, and infer the size of the input."""

import re
from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor, nn

from lamella.errors import RequestError, nearest
from lamella.network.arguments import (
    as_list,
    entry_text,
    in_torch_order,
    keyword_arguments,
    least_value,
    named_parameters,
    takes_anything,
)
from lamella.network.attention import SelfAttention, TransformerEncoderLayer
from lamella.network.inputs import Inputs, Named, sample_shape
from lamella.network.layers import Scale, Take
from lamella.network.learned import ClassToken, Parameter, Positions
from lamella.network.reshaping import Pad, Permute, Reshape
from lamella.network.selecting import Pool, Select
from lamella.network.whitening import Whitening2d
from lamella.signatures import check_call

SPATIAL = {1: "(channels, length)", 2: "(channels, height, width)", 3: "(channels, depth, height, width)"}
# The parameters of torch.nn's classes that are the size of the input, and where that size is in a batch.
# LayerNorm follows the two examples in its documentation: an image as a whole, everything else by its last dimension.
INFERRED: dict[str, Callable[[Tensor], int | tuple[int, ...]]] = {
    "in_features": lambda x: x.shape[-1],
    "input_size": lambda x: x.shape[-1],
    "embed_dim": lambda x: x.shape[-1],
    "d_model": lambda x: x.shape[-1],
    "in_channels": lambda x: x.shape[1],
    "num_features": lambda x: x.shape[1],
    "num_channels": lambda x: x.shape[1],
    "sample_shape": lambda x: tuple(x.shape[1:]),
    "normalized_shape": lambda x: tuple(x.shape[1:]) if x.dim() > 3 else (x.shape[-1],),
}
MOST_LAYERS = 100_000  # torch would make more layers for hours, until the memory is full
SEQUENCES = (ClassToken, Positions, SelfAttention, TransformerEncoderLayer)  # which take (length, features)
LISTS = (Parameter, Permute, Reshape)  # whose first argument is a list, so that a list is this one argument
# Lamella's own layers, which are entries as torch.nn's are.
OWN: dict[str, type[nn.Module]] = {
    cls.__name__: cls for cls in (*SEQUENCES, *LISTS, Pad, Pool, Scale, Select, Whitening2d)
}


def layer_class(name: object) -> type[nn.Module] | None:
    """Return the layer of Lamella or of torch.nn with this name, or None. Containers such as ModuleList are none."""
    if name in OWN:
        return OWN[str(name)]
    found = getattr(nn, name, None) if isinstance(name, str) and not name.startswith("Lazy") else None
    if not isinstance(found, type) or not issubclass(found, nn.Module) or issubclass(found, nn.Sequential):
        return None
    return None if found.forward is nn.Module.forward else found


def layer_names() -> list[str]:
    """Return the names of torch.nn's layers and of Lamella's own."""
    return [name for name in sorted({*OWN, *dir(nn)}) if layer_class(name)]


def inferred_parameter(cls: type[nn.Module]) -> str | None:
    """Return the name of the constructor's argument that is the size of the input, or None."""
    return next((parameter for parameter in named_parameters(cls) if parameter in INFERRED), None)


def sized_layer(
    name: str, argument: object, x: Inputs, named: Named, place: str, recorded: bool = False
) -> Callable[[], nn.Module]:
    """Return a function that makes the layer `name` for batches such as `x`.

    argument: None, a single value, a list (positional, after the inferred size) or a mapping (by keyword). named: the
    named inputs of the network. place: the config key of the layer. recorded: as in `plan`. Raises RequestError for an
    unknown argument, for a shape that has another number of dimensions than the layer takes or whole numbers where it
    takes floats, for a written size that differs from that of `x`, and for a list that begins with the inferred size.
    """
    cls = layer_class(name)
    assert cls is not None
    if cls is Select:
        keywords = keyword_arguments(cls, argument, ["name"], place)
        check_call(cls, keywords, place=f"{place}.{name}")
        _check_input_names(name, keywords, named, place)
        return partial(Select, str(keywords["name"]))
    x = one_tensor(x, name, place)
    if takes_anything(cls):
        return cls
    expected, inferred = named_parameters(cls), inferred_parameter(cls)
    _check_kind(cls, expected, x, place)
    argument, part = _without_take(cls, argument, place)
    argument = _with_incoming_size(
        cls, argument, INFERRED[inferred](x) if inferred else x.shape[1] if x.dim() > 1 else 0
    )
    if cls in LISTS and isinstance(argument, list):
        argument = {expected[0]: argument}
    if recorded and inferred == "d_model" and isinstance(argument, list):  # d_model was not inferred always
        argument = in_torch_order(cls, argument) if argument[0] == x.shape[-1] else argument
    keywords = keyword_arguments(cls, argument, [key for key in expected if key != inferred], place)
    if inferred and argument is not None and not isinstance(argument, Mapping) and not recorded:
        _check_order(cls, as_list(argument), keywords, inferred, x, place)
    if "batch_first" in expected:
        # The batch is the first dimension everywhere in Lamella. Otherwise a recurrent layer would mix the samples.
        keywords.setdefault("batch_first", True)
    if inferred:
        keywords.setdefault(inferred, INFERRED[inferred](x))
    _check_counts(name, keywords, place)
    _check_arguments(cls, argument, keywords, inferred, f"{place}.{name}")
    if inferred:
        _check_size(name, inferred, keywords[inferred], x, place)
    if name in OWN:
        _check_input_names(name, keywords, named, place)
    return partial(cls, **keywords) if part is None else partial(_build_part, partial(cls, **keywords), part)


def one_tensor(x: Inputs, name: str, place: str) -> Tensor:
    """Return `x`. Raise RequestError if it is the mapping of all named inputs, where `name` takes one tensor."""
    if isinstance(x, Mapping):
        raise RequestError(
            f"{place}: {name} takes one tensor, and what comes in are the inputs {', '.join(x)}; "
            f"begin with `Select: {next(iter(x))}`",
            place,
        )
    return x


def _without_take(cls: type[nn.Module], argument: object, place: str) -> tuple[object, tuple[int, ...] | None]:
    """Return the argument of a layer without `take`, and the part of its output that goes on, None for the first."""
    if not isinstance(argument, Mapping) or "take" not in argument or cls.__name__ in OWN:
        return argument, None
    numbers = as_list(argument["take"])
    if not numbers or not all(type(number) is int and number >= 0 for number in numbers):
        key = f"{place}.{cls.__name__}.take"
        raise RequestError(f"{key} is {argument['take']!r}; it takes the number of a part from 0 on, or a list", key)
    part = tuple(number for number in numbers if isinstance(number, int))
    return {key: value for key, value in argument.items() if key != "take"}, part


def _build_part(make: Callable[[], nn.Module], part: tuple[int, ...]) -> nn.Module:
    return Take(make(), part)


def takes_incoming_size(cls: type[nn.Module]) -> bool:
    """Return True if the word `in` stands for the size of what comes in, wherever an entry of the layer has it."""
    return cls.__name__ not in OWN or inferred_parameter(cls) is not None


def _with_incoming_size(cls: type[nn.Module], argument: object, size: object) -> object:
    """Return an argument with the size of what comes in wherever it says `in`: `groups: in`."""
    if not takes_incoming_size(cls):
        return argument
    if isinstance(argument, Mapping):
        return {key: size if value == "in" else value for key, value in argument.items()}
    if isinstance(argument, list):
        return [size if value == "in" else value for value in argument]
    return size if argument == "in" else argument


def _check_input_names(name: str, keywords: Mapping[str, object], named: Named, place: str) -> None:
    """Raise RequestError if a layer reads an input that the network does not have."""
    for parameter in ("name", "mask"):
        read = keywords.get(parameter)
        if read is not None and named is not None and read not in named:
            way = nearest(str(read), named)
            if list(named) == ["input"]:
                written = "mask: input" if parameter == "mask" else "Select: input"
                way = f"the data give one input, whose name is input; write `{written}`, or leave it out"
            raise RequestError(f"{place}: no input is called {read!r}; {way}", place)


def _check_kind(cls: type[nn.Module], expected: list[str], x: Tensor, place: str) -> None:
    """Raise RequestError if `x` has floats where a layer takes whole numbers, or another number of dimensions."""
    if issubclass(cls, nn.Embedding | nn.EmbeddingBag):
        if x.is_floating_point() or x.is_complex():
            dtype = str(x.dtype).removeprefix("torch.")
            raise RequestError(
                f"{place}: {cls.__name__} takes whole numbers, and what comes in is {dtype}; let it come first, after "
                "data that give whole numbers, or write Linear for floats",
                place,
            )
        return
    name = cls.__name__
    spatial = re.search(r"([123])d$", name)
    if spatial and x.dim() != int(spatial[1]) + 2 and not (name == "BatchNorm1d" and x.dim() == 2):
        shape = ("(features,) or " if name == "BatchNorm1d" else "") + SPATIAL[int(spatial[1])]
    elif ("batch_first" in expected or cls in SEQUENCES) and x.dim() != 3:
        shape = "(length, features)"
    elif x.dim() < 2:
        shape = "at least one dimension beside the batch"
    else:
        return
    raise RequestError(f"{place}: {name} expects {shape}, what comes in is {sample_shape(x)}", place)


def _check_order(
    cls: type[nn.Module], values: list[object], keywords: Mapping[str, object], inferred: str, x: Tensor, place: str
) -> None:
    """Raise RequestError if positional values seem to have the order of torch's constructor, with the inferred size.

    keywords: what the values mean here. An integer `eps` is taken for a size too.
    """
    name, size = cls.__name__, INFERRED[inferred](x)
    meant = in_torch_order(cls, values)
    if type(keywords.get("eps")) is int:
        rest = {key: value for key, value in keywords.items() if key != "eps"}
        number = "first" if next(iter(keywords)) == "eps" else "second"
        raise RequestError(
            f"{place}: {name} has its {inferred}={size} inferred, and its {number} value is eps; "
            f"write `{entry_text(name, list(rest.values()))}`",
            place,
        )
    if meant is None or meant.get(inferred) != size:
        return
    rest = {key: value for key, value in meant.items() if key != inferred}
    here = _is_call(cls, {**keywords, inferred: size})
    way = f"write `{entry_text(name, rest if here else list(rest.values()))}`"
    if here:
        way += f", or `{entry_text(name, keywords)}` if that is meant"
    raise RequestError(f"{place}: {name}: {values} begins with the size of the input, which is inferred; {way}", place)


def _is_call(cls: type[nn.Module], keywords: Mapping[str, object]) -> bool:
    """Return True if the constructor of a layer takes these arguments."""
    try:
        check_call(cls, keywords, place="")
    except RequestError:
        return False
    return True


def _check_counts(name: str, keywords: Mapping[str, object], place: str) -> None:
    """Raise RequestError if an argument that counts something is too small, or is a list of a wrong length."""
    spatial = re.search(r"([123])d$", name)
    for parameter, value in keywords.items():
        key = f"{place}.{name}.{parameter}"
        sizes = value if isinstance(value, tuple) else (value,)
        least = least_value(parameter, keywords)
        if least is None:
            continue
        for size in sizes:
            if isinstance(size, int) and size < least:
                raise RequestError(f"{place}: {name} has {parameter}={value}; it takes {least} or more", key)
            if parameter == "num_layers" and isinstance(size, int) and size > MOST_LAYERS:
                raise RequestError(f"{key} is {value}; a network has at most {MOST_LAYERS:,} layers", key)
        if spatial and "kernel_size" in keywords and len(sizes) not in (1, int(spatial[1])):
            raise RequestError(f"{key} is {list(sizes)}; {name} takes one number, or a list of {spatial[1]}", key)


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


def misfit(layer: nn.Module, x: Tensor) -> str | None:
    """Return which size of `x` is not the one that a layer of torch.nn was made for, None if there is no such size."""
    if not type(layer).__module__.startswith("torch.nn.") or x.dim() < 2:
        return None
    for parameter, size in INFERRED.items():
        written = getattr(layer, parameter, None)
        if isinstance(written, int) and written != size(x):
            return f"{type(layer).__name__} has {parameter}={written}, what comes in is {sample_shape(x)}"
    return None


def dtype_misfit(layer: nn.Module, x: Tensor) -> str | None:
    """Return that a layer takes floats, where `x` has none, and what to do; None if `x` suits it or may suit it."""
    if x.is_floating_point() or x.is_complex() or isinstance(layer, nn.Embedding | nn.EmbeddingBag):
        return None
    dtype = str(x.dtype).removeprefix("torch.")
    return f"it takes floats, and what comes in is {dtype}; begin with `Embedding: [count, size]`"


def _ends_with(x: Tensor, written: object) -> bool:
    """Return True if the last dimensions of `x` have the written size or sizes."""
    sizes = written if isinstance(written, tuple) else (written,)
    return tuple(x.shape[x.dim() - len(sizes) :]) == sizes
