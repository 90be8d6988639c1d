"""Modules that are imported when they are used, and stand-ins for what they contain.

A lazy module is an empty module, which is filled as soon as an attribute of it is read, as with Python's
`importlib.util.LazyLoader`. Two things differ. While `LazyFinder.names` is set, `from torchvision.ops import box_iou`
gives a `LazyName`, which imports the module when the function is called. And a lazy module may have substitutes for
attributes that are read although nothing needs the module.
"""

import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec
from types import ModuleType
from typing import Any

LOCK = threading.RLock()
# The names for which Python's own tools look in each module.
ASKED = ("__path__", "__file__", "__cached__", "__wrapped__", "__warningregistry__")
FILLING = set[str]()  # the names of the lazy modules that are being filled
WAITING = dict[str, list[Callable[[], object]]]()  # what is called after lazy modules are filled, by their names


class LazyName:
    """A class, a function or a value of a module that is not imported yet. module: the name of the module."""

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name

    def load(self) -> Any:
        """Import the module and return the attribute. Raises ImportError and AttributeError."""
        return getattr(_import_now(self.module), self.name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # typing asks an annotation for such names
            raise AttributeError(name)
        return getattr(self.load(), name)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.load()(*arguments, **options)

    def __or__(self, other: Any) -> Any:
        return self.load() | other

    def __ror__(self, other: Any) -> Any:
        return other | self.load()

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self.load(),)

    def __instancecheck__(self, value: object) -> bool:
        """Return whether a value is an instance. A class of a module that is not imported has no instances."""
        return is_imported(self.module) and isinstance(value, self.load())

    def __subclasscheck__(self, value: type) -> bool:
        return is_imported(self.module) and issubclass(value, self.load())


class LazyModule(ModuleType):
    """An empty module, which becomes an ordinary module when an attribute is read."""

    def __getattr__(self, name: str) -> Any:
        if name in ASKED:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if LazyFinder.names and is_empty(self):
            return LazyName(self.__name__, name)
        module = _import_now(self.__name__)
        return ModuleType.__getattribute__(self, name) if module is self else getattr(module, name)

    def __dir__(self) -> list[str]:
        return dir(module) if (module := _import_now(self.__name__)) is not self else [*ModuleType.__dir__(self)]


class LazyFinder:
    """Finds modules, and makes lazy modules of them.

    lazy: the names of the modules; those below them are lazy while `names` is set. substitutes: attributes of lazy
    modules, by the names of the module and of the attribute. naming: the lazy modules that get a LazyName for each
    attribute of another lazy module while they are imported.
    """

    names = False  # whether an attribute of a lazy module is a LazyName

    def __init__(
        self, lazy: Collection[str], substitutes: Mapping[str, Mapping[str, object]], naming: Collection[str] = ()
    ) -> None:
        self.lazy = lazy
        self.substitutes = substitutes
        self.naming = naming

    def find_spec(self, name: str, path: Any = None, target: object = None) -> ModuleSpec | None:
        """Return a spec with this object as its loader; None for modules that are not lazy or not installed."""
        package = sys.modules.get(name.rpartition(".")[0])
        if name not in self.lazy and not is_empty(package):
            return None
        if (spec := PathFinder.find_spec(name, path)) is None or spec.loader is None:
            return spec
        if name in self.lazy or self.names:
            spec.loader_state = (spec.loader, self.substitutes.get(name, {}), self)
            spec.loader = self  # type: ignore[assignment]  # is no subclass of Loader
        else:
            spec.loader = InnerLoader()  # type: ignore[assignment]
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return a lazy module with its substitutes."""
        module = LazyModule(spec.name)
        vars(module).update(spec.loader_state[1])
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Leave the module empty."""

    def forget_inner_modules(self) -> None:
        """Remove the lazy modules below other lazy modules, so that a package can import its modules in their order."""
        inner = [name for name, module in sys.modules.items() if is_empty(module) and name not in self.lazy]
        for name in inner:
            module, (package, _, last) = sys.modules.pop(name), name.rpartition(".")
            if vars(sys.modules.get(package, module)).get(last) is module:
                delattr(sys.modules[package], last)


class InnerLoader:
    """Loads a module below a lazy package after this package, whose import may load the module itself."""

    def __init__(self) -> None:
        self.is_loaded = False
        self.spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Fill the package, and return the module that its import has loaded, or a new one. Raises ImportError."""
        package = sys.modules[spec.name.rpartition(".")[0]]
        fill(package)
        module = sys.modules.get(spec.name)
        self.is_loaded = module is not None
        if module is None:
            found = PathFinder.find_spec(spec.name, package.__path__)
            if found is None:
                raise ModuleNotFoundError(f"No module named {spec.name!r}", name=spec.name)
            module = module_from_spec(found)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its own spec, in place of the one that has led here, and execute it if need be."""
        vars(module)["__spec__"] = self.spec  # some modules of torch do not let attributes be set
        if not self.is_loaded and self.spec and self.spec.loader:
            self.spec.loader.exec_module(module)


def is_empty(module: object) -> bool:
    """Return whether an object is a lazy module that has not been filled and is not being filled."""
    return isinstance(module, LazyModule) and module.__name__ not in FILLING


def is_imported(name: str) -> bool:
    """Return whether a module is imported, and not only found by the import of another one."""
    return name in sys.modules and not isinstance(sys.modules[name], LazyModule)


@contextmanager
def when_imported(name: str, call: Callable[[], object]) -> Iterator[None]:
    """Call a function at once if a lazy module is imported, and else as soon as it is imported within the block."""
    import_module(name)
    waiting = WAITING.setdefault(name, [])
    if is_imported(name):
        call()
    else:
        waiting.append(call)
    try:
        yield
    finally:
        if call in waiting:
            waiting.remove(call)


def fill(module: ModuleType) -> None:
    """Make an ordinary module of a lazy one, after the packages above it. Raises what its import raises."""
    with LOCK:
        if package := sys.modules.get(module.__name__.rpartition(".")[0]):
            fill(package)
        if not is_empty(module):  # it is no lazy module, or the package above it has filled it
            return
        spec, empty, names = _spec(module), dict(vars(module)), LazyFinder.names
        loader, substitutes, finder = spec.loader_state
        FILLING.add(module.__name__)
        spec.loader = module.__loader__ = loader
        LazyFinder.names = module.__name__ in finder.naming
        for name in substitutes:
            del vars(module)[name]
        try:
            loader.exec_module(module)
        except BaseException:
            vars(module).clear()
            vars(module).update(empty)
            spec.loader = finder
            raise
        finally:
            if not names:
                finder.forget_inner_modules()
            LazyFinder.names = names
            FILLING.remove(module.__name__)
        if type(module) is LazyModule:  # and not a class that the module has given itself
            module.__class__ = ModuleType  # type: ignore[assignment]  # the class of a module may be set
        for call in WAITING.get(module.__name__, ()):
            call()


def _spec(module: ModuleType) -> ModuleSpec:
    assert module.__spec__ is not None
    return module.__spec__


def _import_now(name: str) -> ModuleType:
    """Import a module, and fill it where it is a lazy one."""
    module = import_module(name)
    fill(module)
    return module
