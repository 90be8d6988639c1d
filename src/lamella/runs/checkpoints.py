"""Checkpoint files that are whole at any moment and know when they are damaged."""

import hashlib
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import nn

from lamella.atomic_files import replacing, sync_directory
from lamella.errors import RequestError, first_line

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
KEYS = ("state_dict", "callbacks", "loops", "optimizer_states", "lr_schedulers")  # of every checkpoint
NEW = "new.ckpt"  # until it takes the name of the last one
# A checkpoint is a zip archive, whose comment stands at its end and is part of no file in it.
COMMENT = b"sha256:"
LENGTH = len(COMMENT) + 64


def read_weights(path: Path) -> dict[str, Any]:
    """The state dict of a checkpoint.

    Raises RequestError for a file that is not there, is damaged, comes from elsewhere or holds more than values.
    """
    if not checksum_matches(path):
        problem = "its checksum is not that of its content" if has_checksum(path) else "it has no checksum at its end"
        raise RequestError(f"{path}: this is no whole checkpoint of Lamella's, {problem}")
    state = read_checkpoint(path)["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise RequestError(f"{path}: this is no checkpoint: its state_dict does not hold tensors by name")
    return state


def find_checkpoint(run: Path, which: str) -> Path:
    """A run's checkpoint: "best" or "last", or the path of any other one. Raises RequestError where it is not there."""
    folder = run / "checkpoints"
    path = folder / f"{which}.ckpt" if which in ("best", "last") else Path(which)
    if not path.is_file():
        there = ", ".join(sorted(str(file) for file in folder.glob("[!.]*.ckpt")))
        hint = f"the run has {there}" if there else "a run has its first one after an epoch"
        raise RequestError(f"{path}: there is no such checkpoint; {hint}")
    return path


def restore_weights(module: nn.Module, path: Path, prefix: str = "") -> None:
    """Give a module the weights in a checkpoint, those whose names begin with `prefix`. Raises RequestError."""
    state = {name.removeprefix(prefix): value for name, value in read_weights(path).items() if name.startswith(prefix)}
    try:
        module.load_state_dict(state)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise RequestError(f"{path}: it does not fit the network of config.yaml: {reason[:300]}") from error


def has_checksum(path: Path) -> bool:
    """Whether a file ends with a checksum, whatever it says."""
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(-min(file.tell(), LENGTH), os.SEEK_END)
        return file.read().startswith(COMMENT)


def checksum_matches(path: Path) -> bool:
    """Whether a checkpoint is, to the bit, what was saved."""
    body = path.stat().st_size - 2 - LENGTH
    if body < 0:
        return False
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while body and (part := file.read(min(body, 1 << 20))):
            body -= len(part)
            digest.update(part)
        digest.update(b"\0\0")
        return file.read() == _end(digest)


def newest_checkpoint(directory: Path) -> tuple[Path | None, list[Path]]:
    """The checkpoint to go on from, None where nothing has been saved, and those that are damaged.

    Raises RequestError where all are damaged.
    """
    found = [directory / name for name in (LAST, PREVIOUS, BEST) if (directory / name).is_file()]
    damaged: list[Path] = []
    for path in found:
        if checksum_matches(path):
            return path, damaged
        damaged.append(path)
    if damaged:
        raise RequestError(
            f"{', '.join(map(str, damaged))}: damaged, the checksums are not those of the content;\n"
            "  `lamella train` begins a new run"
        )
    return None, []


def read_checkpoint(path: Path) -> dict[str, Any]:
    """All that is in a checkpoint; tensors are read when they are used. Raises RequestError for any other file."""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise RequestError(f"{path}: this is no checkpoint: {first_line(error)}") from error
    lacking = [key for key in KEYS if not isinstance(loaded, dict) or key not in loaded]
    if lacking:
        raise RequestError(f"{path}: this is no checkpoint: it has no {lacking[0]}")
    return dict(loaded)


class VerifiedCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint with its checksum to a neighbour and renames it: a crash leaves the one that was there.

    `torch.load` reads the file as any other. Raises OSError where it cannot be written, the old one being left as it
    was, and ValueError where a checkpoint that is loaded is damaged.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with replacing(path) as temporary, temporary.open("wb") as file:
                hashed: Any = _Hashed(file)
                try:
                    torch.save(checkpoint, hashed)
                except Exception:
                    if hashed.error:  # torch hides it behind one of its own
                        raise hashed.error from None
                    raise
                file.seek(-2, os.SEEK_END)
                file.write(_end(hashed.digest))
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror}: {path}") from None
        sync_directory(path.parent)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        if not checksum_matches(Path(path)):
            raise ValueError(f"{path} is damaged: its checksum is not that of its content")
        loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return loaded


class _Hashed:
    """What torch.save writes into, front to back."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, part: Any) -> int:
        try:
            self.file.write(part)
        except OSError as error:
            self.error = error
            raise
        self.digest.update(part)
        return len(part)

    def flush(self) -> None:
        self.file.flush()


def _end(digest: Any) -> bytes:
    """What follows the body of an archive: how long its comment is, and the comment, which holds the body's hash.

    digest: of the archive as torch writes it, which ends with two zeros because it has no comment.
    """
    return struct.pack("<H", LENGTH) + COMMENT + str(digest.hexdigest()).encode()
