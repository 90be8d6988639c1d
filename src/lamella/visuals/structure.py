"""The config, the structure of the network and its graph."""

import copy
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch

from lamella.errors import first_line
from lamella.network.eval_mode import eval_mode
from lamella.visuals.tensorboard import SHARDED, datamodule_of, network_of, tensorboard_writer


class Text(pl.Callback):
    """The resolved config and the structure of the network."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        writer, config = tensorboard_writer(trainer), Path(trainer.default_root_dir) / "config.yaml"
        if writer and not trainer.global_step:
            writer.add_text("structure", _block(str(network_of(pl_module))))
            if config.is_file():
                writer.add_text("config", _block(config.read_text()))


def _block(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


class Graph(pl.Callback):
    """The network's graph, as it is traced on one sample."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        writer = tensorboard_writer(trainer)
        if writer is None or trainer.global_step or isinstance(trainer.strategy, SHARDED):
            return
        network = copy.deepcopy(network_of(pl_module))
        sample = torch.zeros(1, *datamodule_of(trainer).shape, device=pl_module.device)
        try:
            with warnings.catch_warnings(), eval_mode(network), trainer.precision_plugin.forward_context():
                warnings.simplefilter("ignore")  # tracing is deprecated, and TensorBoard reads nothing else
                writer.add_graph(network, trainer.precision_plugin.convert_input(sample), use_strict_trace=False)
        except Exception as error:
            print(f"visuals.graph: this network cannot be traced: {first_line(error)}")
