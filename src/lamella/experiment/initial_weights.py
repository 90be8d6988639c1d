"""Read the config key `network.weights`: the run or the file whose weights a network begins with."""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lamella.config.targets import resolve_target
from lamella.config.values import Config
from lamella.data import Data, RunData
from lamella.data.normalize import Normalize
from lamella.errors import RequestError, nearest
from lamella.network.pretrained import pretrained_file, pretrained_normalization
from lamella.network.weight_files import read_state_dict
from lamella.network.weight_matching import TakenWeights, take_weights
from lamella.runs.checkpoints import find_checkpoint, read_weights
from lamella.runs.reader import read_run, unfinished_note
from lamella.signatures import parameters

KEY = "network.weights"
OPTIONS = ("from", "checkpoint", "rename", "skip")
NAME = re.compile("[A-Z][A-Z0-9_]*")  # of torchvision's weights, such as DEFAULT and IMAGENET1K_V1
TORCHVISION = "torchvision."


@dataclass(frozen=True)
class InitialWeights:
    """The weights with which a new run begins. Nothing is read before a method asks for it.

    source: a run directory, a file, or a name of torchvision's weights. checkpoint: of a run, "best" or "last". rename,
    skip: as in `take_weights`. builder: of the network, whose weights a name means.
    """

    source: str
    checkpoint: str | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    skip: list[str] = field(default_factory=list)
    builder: Callable[..., object] | None = None

    @classmethod
    def of(cls, network: Config) -> "InitialWeights | None":
        """Return the weights that the config group `network` names, None for drawn ones. Raises RequestError."""
        value = network.get("weights")
        if value is None or cls.is_argument(network):
            return None
        options = value if isinstance(value, Mapping) else {"from": value}
        if unknown := [name for name in options if name not in OPTIONS]:
            raise RequestError(f"{KEY}.{unknown[0]}: there is no such key; {nearest(str(unknown[0]), OPTIONS)}", KEY)
        source, checkpoint = options.get("from"), options.get("checkpoint")
        rename, skip = options.get("rename") or {}, options.get("skip") or []
        if not isinstance(source, str) or not source:
            raise RequestError(f"{KEY} is {value!r}; it takes a run directory or a file, also as {{from: …}}", KEY)
        if checkpoint not in (None, "best", "last"):
            raise RequestError(f"{KEY}.checkpoint is {checkpoint!r}; it takes best or last", KEY)
        prefixes = [*rename, *rename.values()] if isinstance(rename, Mapping) else [None]
        if not all(isinstance(prefix, str) for prefix in prefixes):
            raise RequestError(f"{KEY}.rename is {rename!r}; it takes prefixes of names, as {{features.: body.}}", KEY)
        if not isinstance(skip, list) or not all(isinstance(pattern, str) for pattern in skip):
            raise RequestError(f"{KEY}.skip is {skip!r}; it takes a list of patterns, as [head.*]", KEY)
        builder, target = None, str(network.get("_target_"))
        if NAME.fullmatch(source):
            if not target.startswith(TORCHVISION):
                raise RequestError(
                    f"{KEY}.from is {source!r}, a name of torchvision's weights, and the network is none of "
                    f"torchvision's; a file of this name is ./{source}",
                    KEY,
                )
            builder = resolve_target(target, "network._target_", nn.Module)
        return cls(source, checkpoint, rename, skip, builder)

    @staticmethod
    def is_argument(network: Config) -> bool:
        """Return True if `weights` is an argument of the network's class, or a scalar that its layers read.

        That is a name of torchvision's weights, and any text for a class of the project's own that takes it.
        """
        value, target = network.get("weights"), str(network.get("_target_", TORCHVISION))
        if not isinstance(value, str) or NAME.fullmatch(value):
            return isinstance(value, str)
        own = not target.startswith(TORCHVISION)
        return own and "weights" in parameters(resolve_target(target, "network._target_", nn.Module))

    @property
    def is_run(self) -> bool:
        """Return True if the weights are those of a run."""
        return self.builder is None and self._path.is_dir()

    def file(self) -> Path:
        """Return the file that holds the weights. Raises RequestError where there is none."""
        if self.builder:
            return pretrained_file(self.builder, self.source)
        try:
            if self.is_run:
                read_run(self._path)
                return find_checkpoint(self._path, self.checkpoint or "best")
        except RequestError as error:
            raise RequestError(f"{KEY} is {self.source!r}: {error}", KEY) from error
        if not self._path.is_file():
            raise RequestError(
                f"{KEY} is {self.source!r}: there is no run and no file {self._path.absolute()}; it takes a directory "
                "that\n  `lamella train` has made, or a .pth, .pt or .safetensors file",
                KEY,
            )
        if self.checkpoint:
            raise RequestError(f"{KEY}.checkpoint is one of a run, and {self.source} is a file; leave it out", KEY)
        return self._path

    def load(self, network: nn.Module) -> TakenWeights:
        """Give the weights to a network, as `take_weights` does. Raises RequestError as that does."""
        file = self.file()
        short = None if self.rename or self.skip or self.checkpoint else self.source
        return take_weights(network, self._read(file), str(file), self.rename, self.skip, short)

    def record(self) -> dict[str, str]:
        """Return what the record of a run says about the weights: `from`, `checkpoint` of a run, and `sha256`."""
        checkpoint = {"checkpoint": self.checkpoint or "best"} if self.is_run else {}
        return {"from": self.source, **checkpoint, "sha256": self._sha256()}

    def check(self, recorded: Mapping[str, str]) -> None:
        """Raise RequestError where the file is gone, or is another one than that in the record of a run."""
        if (found := self._sha256()) != recorded["sha256"]:
            raise RequestError(
                f"{KEY}: {self.file()} is not the file with which the run began: its SHA-256 is {found[:12]}…, and the "
                f"run has {recorded['sha256'][:12]}…; put that file there",
                KEY,
            )

    def notes(self, data: RunData) -> list[str]:
        """Return what a user should know of the weights, each as one sentence."""
        notes, mean, std = list[str](), None, None
        if self.builder:
            mean, std = pretrained_normalization(self.builder, self.source)
        elif self.is_run:
            record, config = read_run(self._path)
            if note := unfinished_note(record):
                notes.append(f"{self.source}: {note.removeprefix('note: ')}")
            if record["images"]:
                mean, std = config["data"].get("mean"), config["data"].get("std")
        else:
            return notes
        return notes + ([note] if (note := _normalization_note(self.source, mean, std, data)) else [])

    @property
    def _path(self) -> Path:
        return Path(self.source).expanduser()

    def _read(self, file: Path) -> dict[str, Tensor]:
        """Return the tensors in the file by their names in a network. Raises RequestError."""
        if not self.is_run:
            return read_state_dict(file)
        try:
            weights = read_weights(file)
        except RequestError as error:
            raise RequestError(f"{KEY}: {error}", KEY) from error
        prefix = "network."
        return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}

    def _sha256(self) -> str:
        with self.file().open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def _normalization_note(source: str, mean: Any, std: Any, data: RunData) -> str | None:
    """Return a note where weights belong to another normalisation of pixels than that of the data."""
    if not isinstance(data, Data) or data.normalize is None or isinstance(data.shape, dict):
        return None
    written = " ".join(f"data.{name}={_written(value)}" for name, value in (("mean", mean), ("std", std)))
    try:
        theirs = Normalize.of(mean, std, data.shape)
    except RequestError:  # for images with another number of channels
        return f"{source} was trained with {written}, which these images cannot have"
    if theirs.scale.equal(data.normalize.scale) and theirs.shift.equal(data.normalize.shift):
        return None
    return f"{source} was trained with another normalisation of the images; to take it over: {written}"


def _written(value: object) -> str:
    """Return a value as an override has it."""
    return "null" if value is None else str(value).replace(" ", "")
