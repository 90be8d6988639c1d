"""Find what a `_target_` may name, in the libraries and in the project's own packages, and write its schema."""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from lamella.config.project import allowed_targets
from lamella.config.targets import ALLOWED, Kinds, make_own_importable, resolve_target
from lamella.editors.calls import LATER, Schema, call_schema, needed_arguments
from lamella.errors import RequestError, first_line
from lamella.signatures import returned_class

Keep = Callable[[object], bool]


def _is_defined_in(home: str, value: object) -> bool:
    """Return True if a class or function is of the package of a module, which may import others."""
    return str(getattr(value, "__module__", "")).partition(".")[0] == home.partition(".")[0]


@dataclass(frozen=True)
class OwnModules:
    """The modules of the project's own from which a config may build.

    names: of those that could be imported. failed: the reason for each other one, by its name.
    """

    names: Sequence[str]
    failed: Mapping[str, str]

    @classmethod
    def find(cls) -> "OwnModules":
        """Import the packages that pyproject.toml names under `[tool.lamella]`, with the modules in them."""
        names, failed, rest = list[str](), dict[str, str](), allowed_targets()
        if rest:
            make_own_importable()
        while rest:
            name = rest.pop(0)
            try:
                module = import_module(name)
            except (Exception, SystemExit) as error:  # a script calls sys.exit
                failed[name] = first_line(error)
                continue
            names.append(name)
            inner = [found.name for found in iter_modules(getattr(module, "__path__", []), f"{name}.")]
            rest += [path for path in inner if not path.endswith(".__main__")]
        return cls(names, failed)


def known_targets(key: str, kinds: Kinds, homes: Sequence[str], keep: Keep, within: bool) -> dict[str, Any]:
    """Return what a `_target_` at `key` may name in the modules `homes`, by its dotted path.

    kinds, within: as for `resolve_target`. keep: returns whether something is offered.
    """
    found = {}
    for home in homes:
        module = import_module(home)
        for name in dict.fromkeys([*vars(module), *getattr(module, "__all__", [])]):
            value = getattr(module, name, None)
            if name.startswith("_") or not callable(value):
                continue
            with suppress(RequestError):
                target = resolve_target(f"{home}.{name}", f"{key}._target_", kinds, within)
                if _is_defined_in(home, value) and (within or _may_return(target, kinds)) and keep(target):
                    found[f"{home}.{name}"] = target
    return found


def _may_return(target: Callable[..., object], kinds: Kinds) -> bool:
    """Return False for a function whose annotation says that it returns none of `kinds`."""
    returned = None if isinstance(target, type) else returned_class(target)
    return returned is None or not kinds or issubclass(returned, kinds)


class Targets:
    """What a `_target_` may name: classes and functions of some modules, and anything outside of these modules.

    key: of the node. kinds, keep, within: as for `known_targets`. homes: the modules. own: those of the project, which
    come before these. supplied, extra: as for `call_schema`. changed: schemas in place of those of the signatures, by
    the names of the arguments. definitions: the schema of each target by its path, to be put into `$defs`.
    """

    def __init__(
        self,
        key: str,
        kinds: Kinds,
        homes: Sequence[str],
        own: Sequence[str] = (),
        *,
        keep: Keep = lambda found: True,
        supplied: Collection[str] = (),
        extra: Collection[str] = (),
        changed: Mapping[str, Schema] | None = None,
        within: bool = False,
    ) -> None:
        self.homes, self.definitions, self.needed = (*own, *homes), dict[str, Schema](), dict[str, list[str]]()
        for path, target in known_targets(key, kinds, self.homes, keep, within).items():
            with suppress(RequestError):  # it has no signature
                schema = call_schema(target, supplied, extra)
                arguments = schema["properties"]
                for name in (changed or {}).keys() & arguments.keys():
                    kept = {
                        word: arguments[name][word] for word in ("default", "description") if word in arguments[name]
                    }
                    arguments[name] = kept | (changed or {})[name]
                self.definitions[path], self.needed[path] = schema, needed_arguments(target, supplied)

    def path(self) -> Schema:
        """Return the schema of the path itself."""
        homes = "|".join(map(re.escape, self.homes))
        allowed = "|".join(map(re.escape, (*ALLOWED, *allowed_targets())))
        elsewhere = rf"^(?!(?:{homes})\.\w+$)(?:{allowed})\."
        return {"anyOf": [{"enum": list(self.definitions)}, {"type": "string", "pattern": f"{LATER}|{elsewhere}"}]}

    def part(self) -> Schema:
        """Return the schema of a node with a `_target_` that is merged into another one: nothing has to be there."""
        return {"properties": {"_target_": self.path()}, **self._applied_to({})}

    def node(self) -> Schema:
        """Return the schema of a whole node."""
        return {"type": ["object"], "required": ["_target_"], **self.part(), **self._applied_to(self.needed)}

    def _applied_to(self, needed: Mapping[str, Sequence[str]]) -> Schema:
        """Return a schema that applies the definition of the target that a node names."""
        applied = [self._applied(path, needed.get(path, [])) for path in self.definitions]
        return {"allOf": applied} if applied else {}

    def _applied(self, path: str, needed: Sequence[str]) -> Schema:
        # `_args_` gives arguments by their positions, and to a partial call others are given later.
        given = {"anyOf": [{"required": [key]} for key in ("_args_", "_partial_")]}
        required = {"if": given, "else": {"required": needed}} if needed else {}
        return {
            "if": {"properties": {"_target_": {"const": path}}, "required": ["_target_"]},
            "then": {"$ref": f"#/$defs/{path}", **required},
        }

    def arguments(self) -> dict[str, Schema]:
        """Return the schema of each argument that one of the targets takes, for a node that names no target."""
        found: dict[str, list[str]] = {}
        for path, schema in self.definitions.items():
            for name in schema["properties"]:
                found.setdefault(name, []).append(path)
        return {name: self._any_of(name, paths) for name, paths in found.items()}

    def _any_of(self, name: str, paths: Sequence[str]) -> Schema:
        """Return a schema of the values that an argument may have with one of some targets."""
        different: dict[str, Schema] = {}
        for path in paths:
            schema = self.definitions[path]["properties"][name]
            if schema is not True:  # a key that is no argument of this target
                bare = {word: value for word, value in schema.items() if word not in ("default", "description")}
                different.setdefault(json.dumps(bare), {"$ref": f"#/$defs/{path}/properties/{name}"})
        if "{}" in different or not different:
            return different.get("{}", {})
        return {"anyOf": [*different.values()]} if len(different) > 1 else next(iter(different.values()))
