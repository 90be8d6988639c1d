"""Import all that a command may import, once for the commands that follow."""

import gc
import importlib
import pkgutil
from contextlib import suppress

import lamella

# What a run imports as it goes, and what these import.
LIBRARIES = (
    "PIL.BmpImagePlugin",
    "PIL.GifImagePlugin",
    "PIL.JpegImagePlugin",
    "PIL.PpmImagePlugin",
    "antlr4.LL1Analyzer",
    "fsspec.implementations.chained",
    "hydra.main",
    "tensorboard.plugins.custom_scalar.summary",
    "tensorboard.plugins.hparams.metadata",
    "tensorboard.plugins.hparams.plugin_data_pb2",
    "torch.utils.serialization.config",
    "torch.utils.tensorboard",
)
NOT_IMPORTED = ("__main__", "forked")  # the first module runs a command, and the second one blocks signals


def import_all() -> None:
    """Import Lamella and what it imports later, and start no thread."""
    names = [module.name for module in pkgutil.walk_packages(lamella.__path__, "lamella.")]
    for name in (*LIBRARIES, *(name for name in names if name.rpartition(".")[2] not in NOT_IMPORTED)):
        with suppress(ImportError):  # an extra that is not installed
            importlib.import_module(name)
    from hydra.core.plugins import Plugins

    Plugins.instance()
    gc.collect()
    gc.freeze()  # what is never collected is not copied for each fork
