"""Load a trained network from a run directory, with all that is needed to predict with it."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor, nn

from lamella.config.targets import resolve_target
from lamella.config.values import Config
from lamella.data import Data
from lamella.data.decoder import Decoder
from lamella.data.normalize import Normalize
from lamella.data.samples import Encoder, served
from lamella.data.text_encoder import TextEncoder
from lamella.data.text_windows import NextByte
from lamella.errors import RequestError, first_line
from lamella.experiment.build import build_network, prepare_experiment
from lamella.experiment.experiment import Experiment
from lamella.experiment.generation import next_tokens
from lamella.network.eval_mode import eval_mode
from lamella.network.pretrained import without_pretrained_weights
from lamella.runs.checkpoints import find_checkpoint, restore_weights
from lamella.runs.files import PREPROCESSING
from lamella.runs.reader import read_preprocessing, read_run
from lamella.signatures import check_call
from lamella.training.objective import LABELS, Objective
from lamella.training.own_module import answers

BATCH = 256
USED = ("shape", "num_classes", "classes", "mean", "std")  # the keys of `data` that a prediction needs
Images = Tensor | Sequence[Image.Image] | Sequence[str | Path]


@dataclass(frozen=True)
class Model:
    """A trained network in evaluation mode, with its preprocessing.

    network: of the config, or the LightningModule of the project's own that was trained. objective: of the training, by
    which outputs become probabilities. classes: their names, None where the network predicts numbers. shape: of a
    sample, without the batch dimension. normalize: the normalisation of pixels, None where the inputs are not images.
    decoder: turns images into pixels as in training, None where they are no images. encoder: reads tables or texts as
    in training, None where they are none. output: the shape of the network's output for one sample. reconstructs:
    whether the network was trained to give its input again.
    """

    network: nn.Module
    objective: Objective
    classes: list[str] | None
    shape: tuple[int, ...]
    normalize: Normalize | None
    device: torch.device
    decoder: Decoder | None = None
    encoder: Encoder | None = None
    output: tuple[int, ...] = ()
    reconstructs: bool = False

    @property
    def is_own(self) -> bool:
        """Return True for a LightningModule of the project's own, of whose answers Lamella knows no names."""
        return isinstance(self.network, pl.LightningModule)

    @property
    def stacks(self) -> list[str]:
        """Return the names of the stacks that a step of the task's own runs, none for one network."""
        return list(self.network) if isinstance(self.network, nn.ModuleDict) else []

    @property
    def has_masks(self) -> bool:
        """Return True if the network gives a class for each pixel of an image."""
        places = self.output[1:] if self.objective.class_dim == 1 else self.output[:-1]
        return self.decoder is not None and self.objective.kind == "classes" and places == self.shape[1:]

    @property
    def output_names(self) -> list[str]:
        """Return the names of the classes or of the numbers that are predicted: a table's columns, or "output 0"."""
        if self.classes is not None:
            return self.classes
        names = self.encoder.output_names() if self.encoder else []
        return names or [f"output {number}" for number in range(math.prod(self.output))]

    def preprocess(self, inputs: Images) -> Tensor:
        """Return the inputs as the network takes them: float (N, *shape) on the network's device, as in training.

        inputs: paths of image files or PIL images, of any size and mode; pixels, uint8 (N, *shape); floats (N, *shape),
        which are not changed; paths of the files from which tables or texts are read, all samples of which are taken;
        or, where the network was trained on texts, strings, each of which is a text and no path. Raises RequestError
        for inputs that do not fit the network.
        """
        if self.encoder is not None and not isinstance(inputs, Tensor) and len(inputs):
            if isinstance(self.encoder, TextEncoder) and all(isinstance(text, str) for text in inputs):
                inputs = self.encoder.rows([str(text) for text in inputs])
            else:
                inputs = torch.cat([self.encoder.read(str(path))[1] for path in inputs])
        if not isinstance(inputs, Tensor):
            if not len(inputs):
                return torch.empty(0, *self.shape, device=self.device)
            if self.decoder is None:
                raise RequestError("this network was not trained on images; it takes a tensor of floats")
            decoder = self.decoder
            inputs = torch.stack(
                [
                    decoder.image(image) if isinstance(image, Image.Image) else decoder.file(str(image))
                    for image in inputs
                ]
            )
        if tuple(inputs.shape[1:]) != self.shape:
            raise RequestError(
                f"the inputs are {tuple(inputs.shape)}; the network takes (N, {', '.join(map(str, self.shape))})"
            )
        inputs = inputs.to(self.device)
        return served(inputs) if inputs.is_floating_point() or self.normalize is None else self.normalize(inputs)

    def predict(self, inputs: Images) -> Tensor:
        """Return probabilities (N, classes, …) on the CPU, or where the network predicts numbers, these in their unit.

        A LightningModule of the project's own gives what its `predict_step` or its `forward` gives (N, …). Classes of
        pixels have probabilities (N, classes, height, width). inputs: as in `preprocess`, which raises RequestError for
        inputs that do not fit the network.
        """
        parts = []
        if self.stacks:
            raise RequestError(
                f"a step of the task's own runs the stacks of this network, {', '.join(self.stacks)}; call one "
                f"yourself, as lamella.load(…).network[{self.stacks[0]!r}]"
            )
        if isinstance(inputs, Mapping):
            names = ", ".join(map(str, inputs))
            raise RequestError(f"this network takes {names} by name; call lamella.load(…).network with the mapping")
        if isinstance(inputs, str | os.PathLike | Image.Image) or not hasattr(inputs, "__len__"):
            raise RequestError(f"predict takes a list of paths or images, or a tensor, and not {inputs!r}")
        if self.encoder is not None:
            inputs = self.preprocess(inputs)  # a file has many samples
        with eval_mode(self.network):
            for start in range(0, len(inputs), BATCH):
                batch = self.preprocess(inputs[start : start + BATCH])
                if isinstance(self.network, pl.LightningModule):
                    parts.append(answers(self.network, batch).cpu())
                else:
                    parts.append(self._answers(self.network(batch)).cpu())
        return torch.cat(parts) if parts else self.objective.by_class(torch.empty(0, *self.output))

    def generate(self, prompt: str, tokens: int = 200, temperature: float = 0.8, top: int = 40, seed: int = 0) -> str:
        """Return the text that follows `prompt`, without it, from a network that predicts the next byte.

        tokens: the number of bytes. temperature, top: as in `next_tokens`. Equal arguments give equal texts. Raises
        RequestError for another network, an empty prompt, and values that are not possible.
        """
        encoder = self.encoder
        if not isinstance(encoder, NextByte):
            raise RequestError("this network does not predict the next byte of a text, as those of data=characters do")

        def scores(context: Tensor) -> Tensor:
            output: Tensor = self.objective.by_class(self.network(context.to(self.device)))
            return output[0, :, -1].cpu()

        with eval_mode(self.network):
            context = encoder.tokens(prompt)
            return encoder.text([*next_tokens(scores, context, encoder.length, tokens, temperature, top, seed)])

    def _answers(self, output: Tensor) -> Tensor:
        if self.classes is not None:
            return self.objective.probabilities(output)
        return output if self.encoder is None else self.encoder.decode(output)


def load(run: str | os.PathLike[str], checkpoint: str = "best", device: str = "cpu") -> Model:
    """Return the network that a run has trained, from the run directory alone; the data is not needed.

    checkpoint: "best", "last", the name of an epoch that is kept, as "epoch-007", or a path. device: as torch names it.
    Raises RequestError where the run or the checkpoint is missing or damaged, or where the device cannot be used.
    """
    path = Path(run)
    fields, config = read_run(path)
    with without_pretrained_weights():
        network, loss, output = build_network(config)
    if isinstance(network, pl.LightningModule):
        restore_weights(network, find_checkpoint(path, checkpoint), before=network.on_load_checkpoint)
    else:
        restore_weights(network, find_checkpoint(path, checkpoint), "network.")
    data = {name: config["data"][name] for name in USED if config["data"].get(name) is not None}
    check_call(Data, data, place="data", supplied=("source", "batch_size"))
    shape = tuple(data["shape"])
    try:
        target = torch.device(device)
        network.to(target)
    except (RuntimeError, AssertionError) as error:
        raise RequestError(f"device {device!r} cannot be used: {first_line(error)}") from error
    objective = _objective(loss, fields["metric"], config, output)
    classes = _classes(path, data, objective, output) if objective.is_classifier else None
    normalize = _normalize(path, data, shape).to(target) if fields["images"] else None
    decoder = _decoder(config["data"].get("source"), shape) if fields["images"] else None
    is_own = isinstance(network, pl.LightningModule)
    encoder, reconstructs = read_encoder(path), config["data"].get("reconstruct", False) and not is_own
    network.eval()
    return Model(network, objective, classes, shape, normalize, target, decoder, encoder, output, reconstructs)


def load_experiment(run: Path, config: Config, checkpoint: str = "best", *, as_trained: bool = False) -> Experiment:
    """Return what a run has trained, with its data, and configure this process for the device of the config.

    config: of the run, perhaps with other data or another device. checkpoint: as for `load`. as_trained: keep weights
    in float64 where the device has that precision, as the Trainer does. Raises RequestError.
    """
    with without_pretrained_weights():
        experiment = prepare_experiment(config, encoder=read_encoder(run))
        if as_trained:
            experiment.device.make_double(experiment.module)
        before = (lambda checkpoint: None) if experiment.kind.is_task else experiment.module.on_load_checkpoint
        restore_weights(experiment.module, find_checkpoint(run, checkpoint), before=before)
    return experiment


def read_encoder(run: Path) -> Encoder | None:
    """Return the encoder of a run, with what it has learned in training, None where the run has none.

    Raises RequestError where its file is damaged, or names what a config may not build.
    """
    state = read_preprocessing(run)
    if state is None:
        return None
    file, arguments = f"{run / PREPROCESSING}", {name: value for name, value in state.items() if name != "_target_"}
    target = resolve_target(state.get("_target_"), f"{file}: _target_", Encoder)
    check_call(target, arguments, place=file)
    try:
        encoder: Encoder = target(**arguments)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise RequestError(f"{file} is damaged ({first_line(error)})") from error
    return encoder


def _objective(loss: nn.Module, metric: str, config: Config, output: tuple[int, ...]) -> Objective:
    """Return the objective of a run, without its targets. metric: in the record of the run."""
    if metric != "accuracy":
        return Objective(loss, "numbers")
    if isinstance(loss, LABELS):
        return Objective(loss, "labels")
    last = config["network"].get("class_dim") == -1 or output[0] != config["data"].get("num_classes", 0)
    return Objective(loss, "classes", -1 if last else 1)


def _classes(path: Path, data: Config, objective: Objective, output: tuple[int, ...]) -> list[str]:
    """Return the names of the classes. Raises RequestError where the network's output for a sample does not fit."""
    count = output[0 if objective.class_dim == 1 else -1] if output else None
    classes = list(map(str, data.get("classes") or range(data.get("num_classes", count or 0))))
    if count != len(classes):
        raise RequestError(f"{path}: its network gives {output} for a sample, its data has {len(classes)} classes")
    return classes


def _decoder(source: Config | None, shape: tuple[int, ...]) -> Decoder | None:
    """Return the decoder with which a source has read images, None where samples of this shape are no images."""
    if len(shape) != 3 or shape[0] not in (1, 3):
        return None
    settings = {name: (source or {})[name] for name in ("background", "draft") if name in (source or {})}
    return Decoder(shape, **settings)


def _normalize(path: Path, data: Config, shape: tuple[int, ...]) -> Normalize:
    """Return the normalisation of pixels. Raises RequestError where the mean or the std in the config is wrong."""
    try:
        return Normalize.of(data.get("mean"), data.get("std"), shape)
    except (TypeError, ValueError) as error:
        raise RequestError(f"data.mean or data.std of {path}/config.yaml: {first_line(error)}", "data.mean") from error
