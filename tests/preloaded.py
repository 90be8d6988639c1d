"""Imported by the process from which the tests' programs are forked: what a run would import as it goes."""

import importlib

from hydra.core.plugins import Plugins

for name in (
    "hydra.main",
    "PIL.BmpImagePlugin",
    "PIL.GifImagePlugin",
    "PIL.JpegImagePlugin",
    "PIL.PpmImagePlugin",
    "sklearn.datasets",
    "tensorboard.plugins.custom_scalar.summary",
    "tensorboard.plugins.hparams.plugin_data_pb2",
    "torch.utils.tensorboard",
):
    importlib.import_module(name)
Plugins.instance()
