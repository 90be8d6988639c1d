"""Take the places of torch's functions that import its compiler or its symbolic shapes although nothing needs them.

The names `torch._dynamo` and `torch.fx.experimental.symbolic_shapes` are no public ones. Where a later version of torch
has other ones, it imports what it likes, and commands start later.
"""

import functools
import sys
from collections.abc import Callable
from types import FunctionType, MethodType, SimpleNamespace
from typing import Any

from lamella.startup.lazy_modules import LazyName, is_imported

COMPILER = "torch._dynamo"
SYMBOLS = "torch.fx.experimental.symbolic_shapes"


def _unless_symbols(real: LazyName, plain: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls `plain` with truth values and numbers alone, and `real` with anything else."""

    def call(*arguments: Any, **options: Any) -> Any:
        return (plain if all(map(_is_plain, arguments)) else real)(*arguments, **options)

    return call


def _is_plain(value: object) -> bool:
    return type(value) in (bool, int, float) or (isinstance(value, tuple | list) and all(map(_is_plain, value)))


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, tuple | list) else value


def _same(value: Any, skip: int = 0) -> Any:
    return value


def _disable(function: Any = None, recursive: bool = True, **options: Any) -> Any:
    """Do what `torch._dynamo.disable` does: for a function, as soon as the compiler is imported."""
    if not isinstance(function, FunctionType | MethodType):
        return LazyName(COMPILER, "disable").load()(function, recursive, **options)
    disabled: Callable[..., Any] | None = None

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        nonlocal disabled
        if not is_imported(COMPILER):
            return function(*arguments, **keywords)
        disabled = disabled or sys.modules[COMPILER].disable(function, recursive, **options)
        return disabled(*arguments, **keywords)

    vars(call)["_torchdynamo_disable"] = True  # the mark of torch
    return call


def _break_graph(*arguments: Any, **options: Any) -> Any:
    """Do what `torch._dynamo.graph_break` does: nothing, as long as nothing is compiled."""
    return sys.modules[COMPILER].graph_break(*arguments, **options) if is_imported(COMPILER) else None


def _do_nothing(*arguments: object, **options: object) -> None:
    """Take the place of functions that do nothing as long as nothing is compiled."""


# What functions of SYMBOLS return where no argument is a symbol.
WITHOUT_SYMBOLS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("expect_true", "guard_int", "guard_or_false", "guard_or_true", "guard_size_oblivious"), _same),
    "statically_known_true": _same,
    "sym_eq": lambda one, other: _as_tuples(one) == _as_tuples(other),
    "is_nested_int": lambda value: False,
    "sym_and": lambda *values: all(values),
    "sym_or": lambda *values: any(values),
}
# The functions of SYMBOLS that are imported together with those above, and called with symbols alone.
UNCALLED = ("constrain_range", "free_unbacked_symbols", "guarding_hint_or_throw", "has_guarding_hint")
# What torch reads although it needs no module, by the module and the name of the attribute.
SUBSTITUTES: dict[str, dict[str, object]] = {
    # Before functions that are not compiled, in the steps of optimizers, and at the start of DDP.
    COMPILER: {
        "disable": _disable,
        "graph_break": _break_graph,
        "trace_rules": SimpleNamespace(clear_lru_cache=_do_nothing),
    },
    # In operations on the meta device.
    SYMBOLS: {
        **{name: _unless_symbols(LazyName(SYMBOLS, name), plain) for name, plain in WITHOUT_SYMBOLS.items()},
        **{name: LazyName(SYMBOLS, name) for name in UNCALLED},
    },
    "sympy": {"Basic": LazyName("sympy", "Basic")},  # to tell numbers from symbols
}
