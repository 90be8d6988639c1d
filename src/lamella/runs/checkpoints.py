"""Checkpoint files, which are complete at any moment and end with a checksum that reveals damage.

`lamella.training.checkpointing` decides when a checkpoint is saved, and lists the keys that it holds.
"""

import hashlib
import io
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from torch import Tensor, nn

from lamella.atomic_files import replacing, sync
from lamella.errors import RequestError, first_line
from lamella.runs.files import BEST, LAST, PREVIOUS
from lamella.runs.identity import Identity, check_identity, run_identity
from lamella.runs.reader import read_run
from lamella.runs.schema import WeightsKind
from lamella.runs.trash import cleaned_hint

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# The content of a checkpoint, or the state of a part of it: plain values, tensors, and lists and dicts of these.
StateDict = dict[str, Any]

STATE_KEY = "Checkpoints"  # of the state of the callback that saves the checkpoints, in "callbacks"
# The key of the weights in training, in a checkpoint whose "state_dict" holds an average of them. It is the key of
# Lightning's WeightAveraging too.
TRAINED = "current_model_state"
KEYS = ("state_dict", "callbacks", "loops", "optimizer_states", "lr_schedulers")  # checked when a file is read
# A checkpoint is a zip archive. Its comment, at the end of the file, belongs to none of the files in the archive.
COMMENT = b"sha256:"
LENGTH = len(COMMENT) + 64


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors in the state dict of a checkpoint. Raises RequestError as `read_intact_checkpoint` does."""
    state: dict[str, Tensor] = read_intact_checkpoint(path)["state_dict"]
    return state


def read_intact_checkpoint(path: Path) -> StateDict:
    """Return the content of a checkpoint after comparing its checksum.

    Raises RequestError where the file is missing, is damaged, is not a checkpoint of Lamella's or has something other
    than tensors for weights.
    """
    if not checksum_matches(path):
        problem = "its checksum does not match its content" if has_checksum(path) else "it has no checksum at its end"
        raise RequestError(f"{path}: this is not a complete checkpoint of Lamella's, {problem}")
    checkpoint = read_checkpoint(path)
    state = checkpoint["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise RequestError(f"{path}: this is not a checkpoint: its state_dict does not hold tensors by name")
    return checkpoint


def find_checkpoint(run: Path, which: str) -> Path:
    """Return the path of a run's checkpoint. Raises RequestError where there is no such file.

    which: the name of a file in the folder `checkpoints`, as "best", "last" or "epoch-007", or the path of any other
    checkpoint.
    """
    folder = run / "checkpoints"
    named = folder / f"{which}.ckpt"
    path = named if which in ("best", "last") or named.is_file() else Path(which)
    if not path.is_file():
        existing = ", ".join(sorted(str(file) for file in folder.glob("[!.]*.ckpt")))
        hint = f"the run has {existing}" if existing else "a run has its first one after an epoch"
        raise RequestError(f"{path}: there is no such checkpoint; {cleaned_hint(run).removeprefix('; ') or hint}")
    return path


def weights_kind(checkpoint: StateDict) -> WeightsKind:
    """Return whether the weights in a checkpoint are an average, or those that the last step has given."""
    return "averaged" if TRAINED in checkpoint else "trained"


def restore_weights(
    module: nn.Module, path: Path, prefix: str = "", before: Callable[[StateDict], object] = lambda checkpoint: None
) -> None:
    """Load the weights in a checkpoint into a module.

    Raises RequestError where they do not fit the module, or where the checkpoint is in the directory of another run.

    prefix: the beginning of the names to load, which the names in the module do not have. before: called with the
    content of the checkpoint before the weights are loaded, as a LightningModule asks for.
    """
    checkpoint = read_intact_checkpoint(path)
    try:
        before(checkpoint)
        weights = checkpoint["state_dict"].items()
        state = {name.removeprefix(prefix): value for name, value in weights if name.startswith(prefix)}
        module.load_state_dict(state, strict=getattr(module, "strict_loading", True))
    except Exception as error:
        reason = " ".join(str(error).split())
        raise RequestError(f"{path}: it does not fit the network of config.yaml: {reason[:300]}") from error
    run = path.absolute().parent.parent
    if (run / "run.json").exists():
        record, config = read_run(run)
        check_identity(path, saved_identity(checkpoint), run_identity(config, record["reads"]))


def has_checksum(path: Path) -> bool:
    """Return whether a file ends with a checksum, be it the right one or not."""
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(-min(file.tell(), LENGTH), os.SEEK_END)
        return file.read().startswith(COMMENT)


def checksum_matches(path: Path) -> bool:
    """Return whether a checkpoint is, to the bit, the file that was saved."""
    body = path.stat().st_size - 2 - LENGTH
    if body < 0:
        return False
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while body and (part := file.read(min(body, 1 << 20))):
            body -= len(part)
            digest.update(part)
        digest.update(b"\0\0")
        return file.read() == _archive_end(digest.hexdigest())


def newest_checkpoint(directory: Path) -> tuple[Path | None, list[Path]]:
    """Return the newest intact checkpoint in a directory, and the damaged ones that are newer.

    The checkpoint is None where nothing has been saved. Raises RequestError where all checkpoints are damaged, or where
    one that may be intact cannot be read.
    """
    damaged: list[Path] = []
    paths = [directory / name for name in (LAST, PREVIOUS, BEST) if (directory / name).exists()]
    for path in paths:
        if path.is_dir():
            raise RequestError(f"{path}: this is a directory, where the run saves a checkpoint; move it away")
    for path in paths:
        try:
            if checksum_matches(path):
                return path, damaged
        except OSError as error:
            raise RequestError(
                f"{path}: cannot be read ({error.strerror});\n"
                "  make it readable, or delete it to go on from an earlier checkpoint"
            ) from error
        damaged.append(path)
    if damaged:
        raise RequestError(
            f"{', '.join(map(str, damaged))}: damaged, the checksums do not match the content;\n"
            "  `lamella train` begins a new run"
        )
    return None, []


def read_checkpoint(path: Path) -> StateDict:
    """Return the whole content of a checkpoint. Raises RequestError where the file is not a checkpoint.

    The file is mapped into memory, so that a tensor is read when it is used.
    """
    try:
        loaded: object = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise RequestError(f"{path}: this is not a checkpoint: {first_line(error)}") from error
    checkpoint = loaded if isinstance(loaded, dict) else {}
    missing = [key for key in KEYS if key not in checkpoint]
    if missing:
        raise RequestError(f"{path}: this is not a checkpoint: it has no {missing[0]}")
    return checkpoint


def saved_identity(checkpoint: StateDict) -> Identity:
    """Return the identity of the run that has saved a checkpoint, empty for a checkpoint of an earlier version."""
    callbacks = checkpoint["callbacks"]
    state = callbacks.get(STATE_KEY) if isinstance(callbacks, dict) else None
    run = state.get("run") if isinstance(state, dict) else None
    return run if isinstance(run, dict) else {}


class VerifiedCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints with a checksum, and refuses to load damaged ones.

    A crash while a checkpoint is being written leaves the file that was there before. `torch.load` reads the files like
    any other checkpoint.
    """

    def save_checkpoint(self, checkpoint: StateDict, path: str | Path, storage_options: object = None) -> None:
        """Write a checkpoint. Raises OSError where it cannot be written; the file from before is then unchanged."""
        path = Path(path)
        path.parent.mkdir(exist_ok=True)  # fails where the run directory was moved, which is not made again
        try:
            with replacing(path) as temporary, _HashingWriter(temporary) as file:
                try:
                    torch.save(checkpoint, file)
                except Exception:
                    if file.error:  # torch raises an error of its own in place of this one
                        raise file.error from None
                    raise
                checksum = file.digest.hexdigest()
                file.seek(-2, os.SEEK_END)
                file.write(_archive_end(checksum))
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror}: {path}") from None
        sync(path.parent)

    def load_checkpoint(
        self, path: str | Path, map_location: object = None, weights_only: bool | None = None
    ) -> StateDict:
        """Return the content of a checkpoint on the CPU. Raises ValueError where the file is damaged."""
        if not checksum_matches(Path(path)):
            raise ValueError(f"{path} is damaged: its checksum does not match its content")
        loaded: StateDict = torch.load(path, map_location="cpu", weights_only=True)
        return loaded


class _HashingWriter(io.BufferedWriter):
    """A file, opened for writing, that hashes all that is written and keeps the first error of writing."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path, "x"))
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, part: "ReadableBuffer", /) -> int:
        try:
            written = super().write(part)
        except OSError as error:
            self.error = error
            raise
        self.digest.update(part)
        return written


def _archive_end(hexdigest: str) -> bytes:
    """Return what follows the body of the archive: the length of its comment, and the comment with the hash.

    hexdigest: the SHA-256 hash of the archive as torch writes it. That archive ends with two zero bytes, the length of
    its empty comment, which the returned bytes replace.
    """
    return struct.pack("<H", LENGTH) + COMMENT + hexdigest.encode()
