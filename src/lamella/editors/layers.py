"""Write the JSON Schema of the entries of a network: layers with their arguments, composites, and nested lists."""

from collections.abc import Callable
from inspect import Parameter

from torch import nn

from lamella.editors.calls import LATER, Schema, argument_schema, described, documented_arguments, value_of
from lamella.network.arguments import least_value, named_parameters, takes_anything
from lamella.network.entries import BRANCHED, COMPOSITES
from lamella.network.hints import takes_one_input
from lamella.network.layers import Residual, Sequential
from lamella.network.selecting import Select
from lamella.network.shape_inference import (
    LISTS,
    OWN,
    inferred_parameter,
    layer_class,
    layer_names,
    takes_incoming_size,
)
from lamella.signatures import parameters

LAYERS, ENTRY = {"$ref": "#/$defs/layers"}, {"$ref": "#/$defs/entry"}
TAKE = {
    "description": "The number of the part of the output that goes on, where a layer returns a tuple.",
    **value_of("integer", "array", minimum=0, items={"type": "integer", "minimum": 0}),
}
# What the options of composites take. The other one, `layers`, takes entries.
OPTIONS: dict[str, Schema] = {
    "times": {"description": "How often the layers are built.", **value_of("integer", minimum=0)},
    "dim": {"description": "The dimension along which outputs are joined; 0 is the batch.", **value_of("integer")},
}


def entry_definitions() -> dict[str, Schema]:
    """Return the definitions of `layers` and `entry`, and one for each layer and composite by its name.

    They refer to a definition `module`, of a node with a `_target_`.
    """
    single = {name: _layer(cls) for name in layer_names() if takes_one_input(name) and (cls := layer_class(name))}
    single |= {name: _composite(name) for name in COMPOSITES}
    every = [*layer_names(), *COMPOSITES]
    names = {
        "pattern": rf"^(?!(?:{'|'.join(every)})$)[A-Za-z_]\w*$",
        "patternErrorMessage": "This cannot name a layer; in a list, each layer has a dash of its own.",
    }
    references = {name: {"$ref": f"#/$defs/{name}"} for name in single}
    bare = [name for name, schema in single.items() if "null" in schema["type"]]
    texts = [single[name].get("description", "") for name in bare]
    no_layer = "No layer has this name, or it needs arguments, as in `Linear: 64`."
    return {
        **single,
        # A list is numbered, and the keys of a mapping are names of the user's own.
        "layers": {
            **value_of("array", "object"),
            "items": ENTRY,
            "propertyNames": names,
            "additionalProperties": ENTRY,
        },
        "entry": {
            "type": ["string", "object", "array", "null"],
            "items": ENTRY,
            "properties": references,
            "allOf": [
                {
                    "if": {"type": "string"},
                    "then": {
                        "anyOf": [
                            {"enum": bare, "enumDescriptions": texts, "errorMessage": no_layer},
                            {"pattern": LATER},
                        ]
                    },
                },
                {
                    "if": {"type": "object", "required": ["_target_"]},
                    "then": {"$ref": "#/$defs/module"},
                    "else": {
                        "if": {"type": "object", "minProperties": 2},
                        "then": {"propertyNames": names, "additionalProperties": ENTRY},
                        "else": {
                            "properties": dict.fromkeys(references, True),
                            "patternProperties": {r"^[a-z_]\w*$": ENTRY},
                            "additionalProperties": False,
                        },
                    },
                },
            ],
        },
    }


def _layer(cls: type[nn.Module]) -> Schema:
    """Return the schema of the argument of a layer: a mapping by keyword, a list by position, or a single value."""
    if takes_anything(cls):
        return {**described(cls), "type": ["object", "array", "string", "number", "boolean", "null"]}
    given, inferred = parameters(cls), inferred_parameter(cls)
    names = ["name"] if cls is Select else named_parameters(cls)
    words = f"{LATER}|^in$" if takes_incoming_size(cls) else LATER
    arguments = {
        name: _without_nodes(
            argument_schema(given[name].annotation, given[name].default, least_value(name, names), words)
        )
        for name in names
    }
    for name, text in documented_arguments(cls, names).items():
        arguments[name]["description"] = text
    if "batch_first" in arguments:
        arguments["batch_first"]["default"] = True
    positional = [name for name in names if name != inferred]
    needed = [name for name in positional if given[name].default is Parameter.empty]
    references = [{"$ref": f"#/$defs/{cls.__name__}/properties/{name}"} for name in positional]
    later: Schema = {"type": "string", "pattern": LATER}
    first = references[0] if references else later
    schema: Schema = {
        **described(cls),
        "type": ["object", "array", "string", "number", "boolean", *([] if needed else ["null"])],
        "properties": arguments | ({} if cls.__name__ in OWN else {"take": TAKE}),
        "required": needed,
        "additionalProperties": False,
    }
    by_position: Schema = {"minItems": len(needed), "maxItems": len(references)}
    if references:
        by_position["prefixItems"] = references
    if cls in LISTS:  # whose list is the first argument
        by_position = first
    value = first if len(needed) < 2 else later
    return {
        **schema,
        "if": {"type": "array"},
        "then": by_position,
        "else": {"if": {"type": ["string", "number", "boolean"]}, "then": value},
    }


def _without_nodes(schema: Schema) -> Schema:
    """Return the schema of an argument that takes no node with a `_target_`, as those of a layer in a list."""
    if "anyOf" in schema:
        return {**schema, "anyOf": [*map(_without_nodes, schema["anyOf"])]}
    if schema.get("required") != ["_target_"]:
        return schema
    kinds = [kind for kind in schema["type"] if kind != "object"]
    return {key: value for key, value in schema.items() if key != "required"} | {"type": kinds}


def _composite(name: str) -> Schema:
    """Return the schema of the argument of a composite: its layers, or a mapping of its options."""
    known, _ = COMPOSITES[name]
    options = {option: OPTIONS.get(option, LAYERS) for option in known}
    by_name = {
        "properties": dict.fromkeys(options, True),
        "required": [option for option in ("times", "layers") if option in known],
        "additionalProperties": False,
    }
    times = {"prefixItems": [OPTIONS["times"], LAYERS], "minItems": 2, "maxItems": 2}
    classes: dict[str, Callable[..., object]] = {"Sequential": Sequential, "Residual": Residual, **BRANCHED}
    text = (
        described(classes[name])
        if name in classes
        else {"description": "Builds layers several times, one after another."}
    )
    return {
        **text,
        **value_of("object", "array"),
        **(times if name == "Repeat" else {"items": ENTRY}),
        "properties": options,
        "if": {"type": "object"},
        "then": {
            "if": {"anyOf": [{"required": [option]} for option in known]},
            "then": by_name,
            "else": {"required": ["times", "layers"]} if name == "Repeat" else LAYERS,
        },
    }
