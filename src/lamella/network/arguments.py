"""Read the arguments of torch.nn's layers as they are written in YAML and in Python, and write them as YAML."""

import json
from collections.abc import Collection, Mapping, Sequence

from torch import nn

from lamella.errors import RequestError
from lamella.signatures import check_call, parameters

# The smallest value of the parameters whose names start so. torch accepts smaller ones, and then makes layers without
# any output, or fails only when data pass through.
LEAST = {
    **dict.fromkeys(("out_features", "out_channels", "hidden_size", "num_", "output_size", "groups"), 1),
    **dict.fromkeys(("kernel_size", "stride", "dilation", "embedding_dim", "heads", "nhead", "dim_feedforward"), 1),
    **dict.fromkeys(("padding", "output_padding", "before", "after"), 0),
}


def named_parameters(cls: type[nn.Module]) -> list[str]:
    """Return the names of the arguments that an entry may give a layer, in the order of torch's constructor."""
    return [
        name
        for name, parameter in parameters(cls).items()
        if name not in ("device", "dtype")
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]


def least_value(name: str, names: Collection[str]) -> int | None:
    """Return the smallest value of a parameter of a layer that has the parameters `names`, or None."""
    if "kernel_size" not in names and "padding" in name:  # a negative ZeroPad2d crops
        return None
    return next((least for start, least in LEAST.items() if name.startswith(start)), None)


def takes_anything(cls: type[nn.Module]) -> bool:
    """Return True if a layer accepts any arguments and ignores them, as Identity does."""
    return not named_parameters(cls) and any(
        parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters(cls).values()
    )


def as_list(argument: object) -> list[object]:
    """Return the positional values of an argument in YAML: a list as it is, and any other value as a list of one."""
    return list(argument) if isinstance(argument, list | tuple) else [argument]


def tuples(value: object) -> object:
    """Return a value with tuples in place of lists, as torch's constructors take them."""
    return tuple(map(tuples, value)) if isinstance(value, list | tuple) else value


def keyword_arguments(cls: type[nn.Module], argument: object, names: Sequence[str], place: str) -> dict[str, object]:
    """Return the argument of a layer in YAML as keyword arguments. names: the parameters of positional values.

    Raises RequestError for more values than parameters.
    """
    if argument is None:
        return {}
    if isinstance(argument, Mapping):
        return {str(key): tuples(value) for key, value in argument.items()}
    values = as_list(argument)
    if len(values) > len(names):
        taken = f"at most {', '.join(names)}" if names else "no arguments"
        hint = _one_value(cls, values, names)
        raise RequestError(f"{place}: {cls.__name__} takes {taken}, got {values}{hint}", place)
    return {parameter: tuples(value) for parameter, value in zip(names, values, strict=False)}


def _one_value(cls: type[nn.Module], values: list[object], names: Sequence[str]) -> str:
    """Return the hint to write the last values as one list, where the layer takes them so."""
    for count, parameter in enumerate(names):
        arguments = [*values[:count], values[count:]]
        try:
            check_call(cls, dict(zip(names, arguments, strict=False)), place="")
        except RequestError:
            continue
        text = entry_text(cls.__name__, {parameter: values} if count == 0 else arguments)
        return f"; for a list as one value write `{text}`"
    return ""


def in_torch_order(
    cls: type[nn.Module], values: Sequence[object], keywords: Mapping[str, object] | None = None
) -> dict[str, object] | None:
    """Return the arguments of `cls(*values, **keywords)` in Python by name, or None if torch takes no such call."""
    names = named_parameters(cls)
    arguments = {**dict(zip(names, map(tuples, values), strict=False)), **(keywords or {})}
    try:
        check_call(cls, arguments, place="")
    except RequestError:
        return None
    return arguments if len(values) <= len(names) else None


def entry_text(name: str, argument: Mapping[str, object] | Sequence[object]) -> str:
    """Return an entry as it is written in YAML: by keyword for a mapping, positional for a list."""
    if not argument:
        return name
    if isinstance(argument, Mapping):
        return f"{name}: {{{', '.join(f'{key}: {json.dumps(value)}' for key, value in argument.items())}}}"
    one = len(argument) == 1 and not isinstance(argument[0], list | tuple)
    return f"{name}: {json.dumps(argument[0] if one else list(argument))}"
