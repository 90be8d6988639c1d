"""Functions that check the arguments in a config against a signature, before anything is called."""

import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from importlib import import_module
from typing import get_args, get_origin

from lamella.errors import RequestError, nearest


def parameters(target: Callable[..., object]) -> dict[str, inspect.Parameter]:
    """Return the parameters of `target` by their names, without `self`. Raises RequestError if it has no signature."""
    function = target.__init__ if isinstance(target, type) else target  # type: ignore[misc]
    # torch.nn's recurrent layers take `*args, **kwargs`, and have their parameters in an overload.
    overloads = typing.get_overloads(function) if inspect.isfunction(function) else []
    described = overloads[0] if overloads else target
    try:
        signature = inspect.signature(described)
    except ValueError as error:
        raise RequestError(f"{described} does not say what arguments it takes, so a config cannot build it") from error
    with suppress(Exception):  # an annotation names what is imported for type checkers only, or what does not exist
        signature = inspect.signature(described, eval_str=True)
    return {name: parameter for name, parameter in signature.parameters.items() if name != "self"}


def builder_parameters(target: Callable[..., object]) -> dict[str, inspect.Parameter]:
    """Return the parameters of a class, or of a function that hands what it does not know to the class that it returns.

    torchvision's builders of networks are such functions.
    """
    expected = parameters(target)
    if isinstance(target, type) or not is_variadic(expected):
        return expected
    if built := returned_class(target):
        own = {name: one for name, one in expected.items() if one.kind is not one.VAR_KEYWORD}
        return own | parameters(built)
    return expected


def returned_class(function: Callable[..., object]) -> type | None:
    """Return the class that the annotation of what a function returns is, None where there is none."""
    with suppress(Exception):  # as in `parameters`
        returned = typing.get_type_hints(function).get("return")
        return returned if isinstance(returned, type) else None
    return None


def is_variadic(expected: Mapping[str, inspect.Parameter]) -> bool:
    """Return True if arguments of any name are accepted."""
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in expected.values())


def check_call(
    target: Callable[..., object],
    values: Mapping[str, object],
    *,
    place: str,
    supplied: Collection[str] = (),
    title: str | None = None,
    optional: Collection[str] = (),
) -> None:
    """Check that the signature of `target` allows the call `target(**values)`.

    place: the key of the values, for messages. supplied: the parameters that the caller adds later. title: the name of
    the target in messages, by default its own. optional: the parameters that may be missing. Raises RequestError for
    an unknown name, for a value whose type is wrong, and for a required parameter that is missing.
    """
    expected = parameters(target)
    title = title or str(getattr(target, "__name__", target))
    check_arguments(expected, values, place=place, title=title, supplied=supplied)
    for name, parameter in by_keyword(expected).items():
        if parameter.default is parameter.empty and name not in {*values, *supplied, *optional}:
            raise RequestError(f"{place}: {title} needs a value for {name!r}", place)


def check_arguments(
    expected: Mapping[str, inspect.Parameter],
    values: Mapping[str, object],
    *,
    place: str,
    title: str,
    supplied: Collection[str] = (),
) -> None:
    """Check that parameters have the names of `values`, and take their types.

    expected: the parameters by their names. place, title, supplied: as for `check_call`. Raises RequestError.
    """
    named = by_keyword(expected)
    for name, value in values.items():
        if name not in named:
            if is_variadic(expected):
                continue
            choices = set(named) - set(supplied) - {"device", "dtype"}
            hint = nearest(name, choices)
            raise RequestError(f"{place}.{name}: {title} has no such argument; {hint}", f"{place}.{name}", unknown=True)
        annotation = named[name].annotation
        if not _fits(value, annotation):
            words = dict.fromkeys(_words(annotation))
            others = [word for word in words if word not in ("Tensor", "null")]
            if others:  # a config cannot hold a tensor
                words.pop("Tensor", None)
            wanted = " or ".join("a list of numbers" if word == "Tensor" else word for word in words)
            raise RequestError(f"{place}.{name} is {value!r}; {title} takes {wanted}", f"{place}.{name}")


def by_keyword(expected: Mapping[str, inspect.Parameter]) -> dict[str, inspect.Parameter]:
    """Return the parameters that can be given by name."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: parameter for name, parameter in expected.items() if parameter.kind in kinds}


def _fits(value: object, annotation: object) -> bool:
    """Return True if a value from YAML suits an annotation, and for an annotation that cannot be checked."""
    if annotation in (inspect.Parameter.empty, typing.Any) or isinstance(annotation, str | typing.TypeVar):
        return True
    origin = get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in get_args(annotation))
    if origin is typing.Literal:
        return value in get_args(annotation)
    if annotation is None or annotation is types.NoneType:
        return value is None
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    kind = origin or annotation
    if not isinstance(kind, type):
        return True
    if kind.__name__ == "dtype" and named_dtype(value):
        return True
    if issubclass(kind, Enum):  # YAML has the name of a member, which torchvision's builders take for their weights
        return isinstance(value, kind) or (isinstance(value, str) and value in kind.__members__)
    if issubclass(kind, Sequence) and not issubclass(kind, str):
        # YAML has only one kind of list, which becomes a tuple where the target needs one.
        return isinstance(value, Sequence) and not isinstance(value, str)
    return isinstance(value, kind)


# A value of each type of JSON, by the name of the type. The text and the numbers are in no enumeration.
EXAMPLES: dict[str, object] = {
    "null": None,
    "boolean": True,
    "integer": 2**40,
    "number": 0.123,
    "string": "\0",
    "array": [],
    "object": {},
}


def accepted_values(annotation: object) -> tuple[list[str], list[object]]:
    """Return what suits an annotation: the types of JSON all of whose values do, and single values besides."""
    kinds = [name for name, example in EXAMPLES.items() if _fits(example, annotation)]
    return kinds, list(dict.fromkeys(_enumerated(annotation)))


def _enumerated(annotation: object) -> Iterator[object]:
    """Yield the single values that an annotation names: those of a Literal, and the names of an Enum and of dtypes."""
    if get_origin(annotation) in (typing.Union, types.UnionType):
        for option in get_args(annotation):
            yield from _enumerated(option)
    elif get_origin(annotation) is typing.Literal:
        yield from get_args(annotation)
    elif isinstance(annotation, type) and issubclass(annotation, Enum):
        yield from annotation.__members__
    elif isinstance(annotation, type) and annotation.__name__ == "dtype":
        yield from sorted(f"torch.{name}" for name in vars(import_module("torch")) if named_dtype(f"torch.{name}"))


def named_dtype(value: object) -> object:
    """Return the dtype that a text such as `torch.float32` names, None for any other value."""
    if not isinstance(value, str) or not value.startswith("torch."):
        return None
    torch = import_module("torch")  # which the checks of a config without such a text do without
    dtype = getattr(torch, value.removeprefix("torch."), None)
    return dtype if isinstance(dtype, torch.dtype) else None


def _words(annotation: object) -> list[str]:
    """Return the alternatives of an annotation in the words of YAML, such as "a list" or "null"."""
    origin, options = get_origin(annotation), get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return [word for option in options for word in _words(option)]
    if origin is typing.Literal:
        return [str(option) for option in options]
    if annotation in (None, types.NoneType):
        return ["null"]
    kind = origin or annotation
    if isinstance(kind, type) and issubclass(kind, Enum):
        return list(kind.__members__)
    if isinstance(kind, type) and issubclass(kind, Sequence) and not issubclass(kind, str):
        return ["a list"]
    name = getattr(kind, "__name__", str(kind))
    return ["a dtype, as torch.float32," if name == "dtype" else name]
