"""Signatures of classes, read from their source files without importing them, because importing torch takes seconds."""

import ast
import inspect
import typing
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

# The names that annotations are read with. Whatever else an annotation names may be anything.
NAMES: dict[str, object] = {
    **{kind.__name__: kind for kind in (bool, dict, float, int, list, str, tuple)},
    **{name: getattr(typing, name) for name in ("Iterable", "Literal", "Optional", "Sequence", "Union")},
    "Tensor": type("Tensor", (), {}),  # no value in YAML is a tensor
}
FOLLOWED = 8  # imports and base classes that are followed to a definition


class _Names(dict[str, object]):
    def __missing__(self, name: str) -> object:
        return typing.Any


@cache
def source_parameters(path: str) -> dict[str, inspect.Parameter] | None:
    """Return the parameters of the class or function that a dotted path names, or None if its source does not tell."""
    found = _definition(path, FOLLOWED)
    if found is None:
        return None
    module, node = found
    if isinstance(node, ast.FunctionDef):
        return dict(_parameters(node))
    makers = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
    if len(makers) == 1:
        return {name: parameter for name, parameter in _parameters(makers[0]) if name != "self"}
    if makers:  # overloads
        return None
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        fields = [item for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)]
        return {name: _parameter(name, item.annotation) for item in fields if (name := ast.unparse(item.target))}
    bases = [source_parameters(f"{module}.{base.id}") for base in node.bases if isinstance(base, ast.Name)]
    return bases[0] if bases else None


def _definition(path: str, follow: int) -> tuple[str, ast.ClassDef | ast.FunctionDef] | None:
    """Return the module and the node that define what a path names, or None. follow: how many imports to follow."""
    module, _, name = path.rpartition(".")
    file = _module_file(module)
    if file is None or not follow:
        return None
    imported = []
    for node in _parsed(file).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom):
            names = {alias.asname or alias.name: alias.name for alias in node.names}
            if name in names or "*" in names:
                imported.append(f"{_imported_module(node, module, file)}.{names.get(name, name)}")
    # The first module that has the name decides; one that is imported whole may not have it.
    return next(filter(None, (_definition(target, follow - 1) for target in imported)), None)


def _imported_module(node: ast.ImportFrom, module: str, file: Path) -> str:
    """Return the absolute name of the module that a statement imports from."""
    parts = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    base = parts[: len(parts) - node.level + 1] if node.level else []
    return ".".join([*base, *([node.module] if node.module else [])])


def _module_file(module: str) -> Path | None:
    """Return the source file of a module, which is not imported, or None."""
    root, *parts = module.split(".")
    spec = find_spec(root) if root else None
    if spec is None or not spec.submodule_search_locations:
        return None
    place = Path(spec.submodule_search_locations[0], *parts)
    files = (place / "__init__.py", place.with_suffix(".py"))
    return next((file for file in files if file.is_file()), None)


@cache
def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text("utf-8"))


def _parameters(function: ast.FunctionDef) -> Iterator[tuple[str, inspect.Parameter]]:
    """Yield the names and the parameters of a function."""
    given = function.args
    for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs):
        yield argument.arg, _parameter(argument.arg, argument.annotation)
    if given.kwarg:
        yield given.kwarg.arg, inspect.Parameter(given.kwarg.arg, inspect.Parameter.VAR_KEYWORD)


def _parameter(name: str, annotation: ast.expr | None) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=_annotation(annotation))


def _annotation(node: ast.expr | None) -> object:
    """Return the type that an annotation describes, Any where it is not known."""
    if node is None:
        return typing.Any
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        node = ast.parse(node.value, mode="eval").body
    try:
        return eval(compile(ast.Expression(node), "annotation", "eval"), {"__builtins__": {}}, _Names(NAMES))
    except Exception:
        return typing.Any
