"""Show the config, the structure of the network and its graph."""

import copy
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch

from lamella.console import print
from lamella.errors import first_line
from lamella.lightning_internals import trainer_precision
from lamella.network.eval_mode import eval_mode
from lamella.network.inputs import zero_batch
from lamella.visuals.tensorboard import datamodule_of, is_sharded, network_of, runs_alone, tensorboard_writer


class Text(pl.Callback):
    """Writes the resolved config and the structure of the network as text."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        writer, config = tensorboard_writer(trainer), Path(trainer.default_root_dir) / "config.yaml"
        if writer and not trainer.global_step:
            writer.add_text("structure", _code_block(str(network_of(pl_module))))
            if config.is_file():
                writer.add_text("config", _code_block(config.read_text("utf-8")))


def _code_block(text: str) -> str:
    """Return the text as a code block of Markdown."""
    return "\n".join(f"    {line}" for line in text.splitlines())


class Graph(pl.Callback):
    """Draws the graph of the network, traced on one sample of zeros."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        writer = tensorboard_writer(trainer)
        if writer is None or trainer.global_step or is_sharded(trainer):
            return
        if not runs_alone(network_of(pl_module)):
            return
        network = copy.deepcopy(network_of(pl_module))
        data = datamodule_of(trainer)
        sample = zero_batch(data.shape, data.input_type, 1, pl_module.device)
        try:
            with warnings.catch_warnings(), eval_mode(network), trainer_precision(trainer, sample) as inputs:
                warnings.simplefilter("ignore")  # torch.jit.trace is deprecated, and add_graph has no other way
                # Tracing twice to compare the two would take longer, and add_graph leaves a traced network as it is.
                traced = torch.jit.trace(network, inputs, strict=False, check_trace=False)  # type: ignore[no-untyped-call]
                writer.add_graph(traced, inputs)
        except Exception as error:
            print(f"visuals.graph: this network cannot be traced: {first_line(error)}")
