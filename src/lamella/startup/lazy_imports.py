"""Import the modules that few runs use when they are used: torch's compiler, torchvision, scipy and others.

pytorch_lightning and torch import them early. torchmetrics, which Lightning imports, needs torchvision, scipy and
matplotlib for metrics of images and sound and for plots. torch imports its compiler before the first step of an
optimizer, and what it computes with symbolic shapes before an operation on the meta device. All this takes longer than
the other imports of a run together.

While `pytorch_lightning` and torchvision are being imported, they get a `LazyName` for each attribute of a lazy module.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from lamella.startup.lazy_modules import LazyFinder
from lamella.startup.substitutes import COMPILER, SUBSTITUTES, SYMBOLS

# Each with the modules below it.
LAZY = (COMPILER, SYMBOLS, "sympy", "triton", "torchvision", "scipy", "matplotlib", "torchmetrics.utilities.plot")
LIGHTNING = "pytorch_lightning"
LIBRARIES = (LIGHTNING, "lightning_fabric", "torchmetrics")  # imported once more if the import with lazy modules fails


class LightningFinder:
    """Finds `pytorch_lightning` as Python does, and imports it with a LazyName for each attribute of a lazy module."""

    def __init__(self, lazy: LazyFinder) -> None:
        self.lazy = lazy
        self.loader: Any = None

    def find_spec(self, name: str, path: Any = None, target: object = None) -> ModuleSpec | None:
        """Return the spec of `pytorch_lightning` with this object as its loader; None for all other modules."""
        if name != LIGHTNING or (spec := PathFinder.find_spec(name, path)) is None:
            return None
        self.loader, spec.loader = spec.loader, self  # type: ignore[assignment]  # is no subclass of Loader
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Return None: Python makes the module."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Import the module, and where this fails, once more as Python does."""
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self.loader
        before, earlier = dict(vars(module)), {*sys.modules}
        LazyFinder.names = True
        try:
            with no_garbage_collection():
                self.loader.exec_module(module)
            return
        except Exception:  # a later version of a library may do with a LazyName what only the object itself can do
            vars(module).clear()
            vars(module).update(before)
            for name in {*sys.modules} - earlier:
                if name.partition(".")[0] in LIBRARIES:
                    del sys.modules[name]
        finally:
            LazyFinder.names = False
            self.lazy.forget_inner_modules()
        self.loader.exec_module(module)


def import_lazily() -> None:
    """Make the modules in LAZY lazy that have not been imported."""
    lazy = LazyFinder(LAZY, SUBSTITUTES, naming=["torchvision"])
    finders: list[Any] = [lazy, LightningFinder(lazy)]
    sys.meta_path[:0] = finders


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Do not look for garbage within the block: imports make hundreds of thousands of objects, and all are kept."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
