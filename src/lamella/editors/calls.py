"""Write the JSON Schemas of values, arguments and calls, from the signatures that a config is checked with."""

import inspect
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from lamella.config.targets import UNDERSCORED
from lamella.signatures import EXAMPLES, accepted_values, builder_parameters, by_keyword, is_variadic, parameters

Schema = dict[str, Any]
# What may stand for any value: an interpolation, or ??? where a value is still to be given.
LATER = r"\$\{|^\?\?\?$"


def interpolated(schema: Mapping[str, Any], words: str = LATER) -> Schema:
    """Return a schema with a `type` that also accepts text that matches the pattern `words`."""
    kinds = schema["type"]
    if "string" in kinds:
        return dict(schema)
    expected = " or ".join(kind for kind in kinds if kind != "object" or "required" not in schema)
    message = {"patternErrorMessage": f"This is text, and what is expected is {expected}."} if expected else {}
    return {**schema, "type": [*kinds, "string"], "pattern": words, **message}


def value_of(*kinds: str, words: str = LATER, **keywords: object) -> Schema:
    """Return the schema of a value of one of these types of JSON. keywords: others of JSON Schema."""
    return interpolated({"type": list(kinds), **keywords}, words)


def choice_of(values: Collection[object], *kinds: str) -> Schema:
    """Return the schema of one of `values`, or a value of one of these types."""
    return {"anyOf": [{"enum": list(values)}, value_of(*kinds)]}


def argument_schema(annotation: object, default: object, least: int | None = None, words: str = LATER) -> Schema:
    """Return the schema of an argument. A node with a `_target_` may stand for any value.

    least: the smallest number, None for any. words: as in `interpolated`.
    """
    kinds, named = accepted_values(annotation)
    values = [value for value in named if _plain(value)[0]]  # a Literal may name a member of an Enum
    if "number" in kinds:
        kinds.remove("integer")
    if set(kinds) >= set(EXAMPLES) - {"integer"}:
        schema: Schema = {}
    elif "object" in kinds:
        schema = value_of(*kinds, words=words)
    else:
        schema = value_of(*kinds, "object", words=words, required=["_target_"])
    if least is not None and {"integer", "number"} & {*kinds}:
        schema |= {"minimum": least, **({"items": {"minimum": least}} if "array" in kinds else {})}
    if values:
        schema = {"anyOf": [{"enum": values}, schema]}
    known, plain = _plain(default)
    return {**schema, "default": plain} if known else schema


def call_schema(target: Callable[..., object], supplied: Collection[str] = (), extra: Collection[str] = ()) -> Schema:
    """Return the schema of a node whose keys are the arguments of `target`, of which none has to be there.

    supplied: the arguments that the caller adds to the call, and that a config does not give. extra: further keys.
    Raises RequestError for what has no signature.
    """
    expected = builder_parameters(target)
    named = {name: one for name, one in by_keyword(expected).items() if name not in supplied}
    arguments = {name: argument_schema(one.annotation, one.default) for name, one in named.items()}
    for name, text in documented_arguments(target, named).items():
        arguments[name]["description"] = text
    return {
        **described(target),
        "properties": {**dict.fromkeys((*UNDERSCORED, *extra), True), **arguments},
        "additionalProperties": is_variadic(expected),
    }


def needed_arguments(target: Callable[..., object], supplied: Collection[str] = ()) -> list[str]:
    """Return the names of the arguments without a default. supplied: as for `call_schema`."""
    named = by_keyword(parameters(target))
    return [name for name, one in named.items() if one.default is one.empty and name not in supplied]


def described(target: object) -> Schema:
    """Return the `description` of a schema: the first sentence of a docstring; {} where there is none."""
    paragraphs = [text for text in (inspect.getdoc(target) or "").split("\n\n") if "__init__(" not in text]
    return {"description": _sentence(paragraphs[0])} if paragraphs and paragraphs[0].strip() else {}


def documented_arguments(target: object, names: Collection[str]) -> dict[str, str]:
    """Return the first sentence about each argument in a docstring, as torch, Lightning and Lamella write them."""
    text, found = inspect.getdoc(target) or "", {}
    for name in names:
        if match := re.search(
            rf"^ *(?:\w+, )*{name}(?: \([^)\n]*\))?: +(\S.*(?:\n(?! *\w+(?: \(.*\))?: )(?! *$).*)*)", text, re.M
        ):
            found[name] = _sentence(match[1])
    return found


def _sentence(text: str) -> str:
    """Return the first sentence of a paragraph, without the roles of reStructuredText."""
    plain = re.sub(r":[\w:]+:`~?([^`]*)`", r"\1", " ".join(text.split())).replace("``", "`")
    return re.split(r"(?<!e\.g\.)(?<!i\.e\.)(?<=\.) |(?<=[:;]) (?=[A-Z])", plain)[0].strip()


def _plain(value: object) -> tuple[bool, object]:
    """Return whether JSON can hold a default, and the default as JSON has it."""
    if isinstance(value, tuple | list):
        items = [_plain(item) for item in value]
        return all(known for known, _ in items), [item for _, item in items]
    finite = not isinstance(value, float) or abs(value) < float("inf")
    return value is None or (isinstance(value, bool | int | float | str) and finite), value
