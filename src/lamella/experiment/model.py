"""A trained network with all that it takes to use it: what it sees, and what its answers mean."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from lamella.data import Data
from lamella.data.images import ImageFiles, image_pixels
from lamella.data.normalize import Normalize
from lamella.errors import RequestError, first_line
from lamella.experiment.build import build_network
from lamella.network.eval_mode import eval_mode
from lamella.runs.checkpoints import find_checkpoint, restore_weights
from lamella.runs.reader import read_run
from lamella.signatures import check_call
from lamella.training.losses import probabilities
from lamella.training.metrics import is_classifier

BATCH = 256
SEEN = ("shape", "num_classes", "classes", "mean", "std")  # of the data's config
Images = Tensor | Sequence[Image.Image] | Sequence[str | Path]


@dataclass(frozen=True)
class Model:
    """A trained network in evaluation mode.

    classes: their names, None where the network gives numbers. shape: of a sample, without the batch dimension.
    normalize: what is done to pixels, None where inputs are no images. loss: what it was trained with, which says what
    its answers mean.
    """

    network: nn.Module
    loss: nn.Module
    classes: list[str] | None
    shape: tuple[int, ...]
    normalize: Normalize | None
    device: torch.device

    def preprocess(self, inputs: Images) -> Tensor:
        """What the network takes, float (N, *shape) on its device, as in training.

        inputs: paths of image files or PIL images, of any size and mode; pixels, uint8 (N, *shape); or floats
        (N, *shape), which stay as they are. Raises RequestError.
        """
        if not isinstance(inputs, Tensor):
            if not len(inputs):
                return torch.empty(0, *self.shape, device=self.device)
            if self.normalize is None:
                raise RequestError("this network was not trained on images; it takes a tensor of floats")
            files = ImageFiles([], self.shape)
            inputs = torch.stack(
                [
                    image_pixels(image, self.shape) if isinstance(image, Image.Image) else files.decode(str(image))
                    for image in inputs
                ]
            )
        if tuple(inputs.shape[1:]) != self.shape:
            raise RequestError(
                f"the inputs are {tuple(inputs.shape)}; the network takes (N, {', '.join(map(str, self.shape))})"
            )
        inputs = inputs.to(self.device)
        return inputs if inputs.is_floating_point() or self.normalize is None else self.normalize(inputs)

    def predict(self, inputs: Images) -> Tensor:
        """Probabilities (N, classes) on the CPU, or what the network gives where that is numbers.

        inputs: as in `preprocess`. Raises RequestError.
        """
        parts = []
        if isinstance(inputs, str | os.PathLike | Image.Image) or not hasattr(inputs, "__len__"):
            raise RequestError(f"predict takes a list of paths or images, or a tensor, and not {inputs!r}")
        with eval_mode(self.network):
            for start in range(0, len(inputs), BATCH):
                output = self.network(self.preprocess(inputs[start : start + BATCH]))
                parts.append((output if self.classes is None else probabilities(output, self.loss)).cpu())
        return torch.cat(parts) if parts else torch.empty(0, len(self.classes or []))


def load(run: str | os.PathLike[str], checkpoint: str = "best", device: str = "cpu") -> Model:
    """The network that a run has trained, from its directory alone; its data is not needed.

    checkpoint: "best", "last" or a path. Raises RequestError.
    """
    path = Path(run)
    fields, config = read_run(path)
    network, loss, output = build_network(config)
    restore_weights(network, find_checkpoint(path, checkpoint), "network.")
    seen = {name: config["data"][name] for name in SEEN if name in config["data"]}
    check_call(Data, seen, place="data", supplied=("source", "batch_size"))
    shape = tuple(seen["shape"])
    try:
        place = torch.device(device)
        network.to(place)
    except (RuntimeError, AssertionError) as error:
        raise RequestError(f"device {device!r} cannot be used: {first_line(error)}") from error
    classes = None
    if is_classifier(fields["metric"]):
        classes = list(map(str, seen.get("classes") or range(seen["num_classes"])))
        if output != (len(classes),):
            raise RequestError(f"{path}: its network gives {output} for a sample, its data has {len(classes)} classes")
    try:
        normalize = Normalize.of(seen.get("mean"), seen.get("std"), shape).to(place) if fields["images"] else None
    except (TypeError, ValueError) as error:
        raise RequestError(f"data.mean or data.std of {path}/config.yaml: {first_line(error)}", "data.mean") from error
    return Model(network.eval(), loss, classes, shape, normalize, place)
