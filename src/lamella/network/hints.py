"""Word what to type instead of a layer that does not exist or that an entry cannot build."""

import ast
import inspect
import re
from collections.abc import Callable, Mapping, Sequence

from torch import nn

from lamella.errors import RequestError, nearest
from lamella.network.arguments import entry_text, in_torch_order
from lamella.network.keras_names import hint_for_keras_name
from lamella.network.shape_inference import inferred_parameter, layer_class, layer_names
from lamella.signatures import parameters

# The classes of torch.nn that hold modules or parameters, and what an entry has in their place.
CONTAINERS = {
    "Module": "it is the base of all layers; write the one that is meant, or `_target_: mine.Block`",
    "ModuleList": "write a list, whose entries run one after another",
    "ModuleDict": "write a mapping of names to entries, which run one after another",
    "ParameterList": "write `Parameter: {shape: [8]}` for a learned tensor",
    "ParameterDict": "write `Parameter: {shape: [8]}` for a learned tensor",
    "Container": "write a list, whose entries run one after another",
    "RNNBase": "write RNN, LSTM or GRU",
    "RNNCellBase": "write RNNCell, LSTMCell or GRUCell",
}
# The attention of torch.nn that takes several inputs or modules, and the entry for a sequence that reads itself.
SELF_ATTENTION = {
    "MultiheadAttention": "`SelfAttention: {heads: 4}`",
    "Transformer": "`Repeat: [4, [{TransformerEncoderLayer: {nhead: 4}}]]`",
    "TransformerDecoder": "`Repeat: [4, [{TransformerEncoderLayer: {nhead: 4, causal: true}}]]`",
    "TransformerDecoderLayer": "`TransformerEncoderLayer: {nhead: 4, causal: true}`",
    "TransformerEncoder": "`Repeat: [4, [{TransformerEncoderLayer: {nhead: 4}}]]`",
}


def unknown_layer_hint(name: str, argument: object, composites: Sequence[str]) -> str:
    """Return what to write instead of a layer that does not exist. composites: the names that are entries too."""
    code = re.fullmatch(r"(?:torch\.)?(?:nn\.)?(\w+)(?:\((.*)\)|[ :=]+(.*))?", name)
    if code and (cls := layer_class(code[1])):
        return f"write `{_entry_of_call(cls, code[2] or re.sub('[ ,]+', ', ', code[3] or ''))}`"
    if code and (hint := CONTAINERS.get(code[1]) or hint_for_keras_name(code[1])):
        return hint
    if name.startswith("Lazy"):
        return f"sizes are inferred here, write {name[4:]}"
    hint = nearest(name, [*composites, *filter(takes_one_input, layer_names())])
    if isinstance(argument, list | Mapping) and "?" not in hint:
        return "a name of your own starts in lower case"
    return hint


def _entry_of_call(cls: type[nn.Module], arguments: str) -> str:
    """Return the entry for a layer that is written as in Python, such as Linear(784, 10), without its input size."""
    try:
        call = ast.parse(f"f({arguments})", mode="eval").body
        assert isinstance(call, ast.Call)
        values = [ast.literal_eval(value) for value in call.args]
        keywords = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError):  # a value is a variable or another expression
        return f"{cls.__name__}: [{arguments}]" if "," in arguments else f"{cls.__name__}: {arguments}"
    inferred, meant = inferred_parameter(cls), in_torch_order(cls, values, keywords)
    if meant is not None and keywords:
        return entry_text(cls.__name__, {key: value for key, value in meant.items() if key != inferred})
    if meant is not None:
        values = [value for key, value in meant.items() if key != inferred]
    return entry_text(cls.__name__, values or keywords)


def check_one_input(name: str, place: str) -> None:
    """Raise RequestError for a layer of torch.nn that takes several inputs, or that is built from another module."""
    cls = layer_class(name)
    assert cls is not None
    others = further_inputs(cls.forward, skipped=2)
    target = f"torch.nn.{name}"
    if cls.__module__ == "torch.nn.modules.loss":
        raise RequestError(f"{place}: {name} is a loss and no layer; choose it by loss._target_={target}", place)
    if others:
        way = "call it in a module of your own, `_target_: mine.Block`"
        if name in SELF_ATTENTION:
            way = f"self-attention is {SELF_ATTENTION[name]}; for anything else {way}"
        raise RequestError(
            f"{place}: {name} needs a further input ({', '.join(others)}), and a layer gets one; {way}", place
        )
    for parameter, given in parameters(cls).items():
        kind = getattr(given.annotation, "__bound__", given.annotation)  # that of a type variable
        if isinstance(kind, type) and issubclass(kind, nn.Module) and given.default is given.empty:
            way = f"write `_target_: {target}`, and `{parameter}: {{_target_: …}}` inside"
            if name in SELF_ATTENTION:
                way = f"write {SELF_ATTENTION[name]}"
            raise RequestError(f"{place}: {name} is made from a module ({parameter}); {way}", place)


def takes_one_input(name: str) -> bool:
    """Return True if a layer of torch.nn or of Lamella can be an entry: it is made of values, and takes one input."""
    try:
        check_one_input(name, "")
    except RequestError:
        return False
    return True


def further_inputs(forward: Callable[..., object], skipped: int = 1) -> list[str]:
    """Return the arguments that `forward` needs beside the input. skipped: 2 if `self` comes before the input."""
    try:
        given = list(inspect.signature(forward).parameters.values())
    except (TypeError, ValueError):  # it is not written in Python
        return []
    return [
        parameter.name
        for parameter in given[skipped:]
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
