"""What a checkpoint says of the samples of a run, so that a run goes on with the same samples alone."""

import hashlib
import json
import zlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import PIL.features
from torch import Tensor

from lamella.data.chunk import Batch
from lamella.data.contents import checksums
from lamella.data.environment import environment_changes, numeric_environment
from lamella.data.images import ImageFiles
from lamella.data.samples import Encoder, NamedInputs, Samples
from lamella.data.summary import WORDS

NUMBER = "the number of"
LEARNED = "what is learned from the training samples"
Fingerprint = Mapping[str, Any]  # of the samples of a datamodule, as plain values


class Checksums:
    """Computes the checksums of the inputs of each split once, for all runs that share the samples."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[object, np.ndarray | None]] = {}

    def of(self, splits: Mapping[str, Samples]) -> dict[str, np.ndarray]:
        """Return the checksums of the splits whose inputs have them, as `checksums` returns them."""
        for name, samples in splits.items():
            inputs, sums = self.known.get(name, (None, None))
            if sums is None or inputs is not samples.inputs:
                self.known[name] = samples.inputs, checksums(samples.inputs)
        return {name: sums for name, (_, sums) in self.known.items() if sums is not None}

    def fingerprint(self, splits: Mapping[str, Samples], encoder: Encoder | None) -> Fingerprint:
        """Return for each split the number of samples with a checksum of the targets, and a checksum of the inputs.

        A checksum of the inputs follows what it was made of: "values", or "files" for images that stay files. A split
        whose inputs are not read has none. What an encoder has learned has a checksum too. `data_environment` is added.
        """
        sums = [[len(one), target_checksum(one.targets)] for one in splits.values()]
        inputs = {
            name: f"{'files' if isinstance(splits[name].inputs, ImageFiles) else 'values'} {_digest(each)}"
            for name, each in self.of(splits).items()
        }
        learned = {} if encoder is None else {"encoder": zlib.crc32(json.dumps(encoder.state()).encode())}
        return {"targets": sums, "inputs": inputs, **learned, "environment": data_environment()}


def data_environment() -> dict[str, object]:
    """Return what the last bits of computed inputs and the pixels of decoded images depend on, as plain values."""
    libjpeg = PIL.features.version("libjpeg_turbo")
    return {**numeric_environment(), "numpy": np.__version__, "pillow": PIL.__version__, "libjpeg": libjpeg}


def target_checksum(targets: Tensor) -> int:
    """Return the CRC-32 of all targets."""
    return zlib.crc32(targets.cpu().numpy().tobytes())


def first_fingerprint(batches: Mapping[str, Batch]) -> dict[str, list[str]]:
    """Return checksums of the inputs and of the targets of the first batch of each split."""
    return {
        name: [_digest(checksums(inputs if isinstance(inputs, Tensor) else NamedInputs(inputs))), _digest(targets)]
        for name, (inputs, targets) in batches.items()
    }


def differences(saved: Fingerprint | None, now: Fingerprint) -> list[str]:
    """Return what is not as it was, as "the training inputs". Only what both fingerprints have is compared.

    Where there are more or fewer samples than there were, only their numbers are returned. saved: as a checkpoint holds
    it, also that of an earlier version. None if it is of another kind of datamodule.
    """
    if saved is None:
        return ["the samples"]
    before, after = dict(_parts(saved)), dict(_parts(now))
    found = [what for (what, kind), value in after.items() if before.get((what, kind), value) != value]
    return [what for what in found if what.startswith(NUMBER)] or found


def changed(different: Collection[str]) -> str:
    """Return what `differences` has found as a part of a message."""
    return f"changed since then: {', '.join(different)}"


def other_rounding(different: Collection[str], saved: Fingerprint, now: Fingerprint) -> list[str]:
    """Return why unchanged data may give the differences, as "torch 2.15.0 instead of 2.14.0".

    The list is empty where the environment has not changed, or something differs that does not depend on it: a number
    of samples, targets, or the bytes of files.
    """
    computed = [what for what, kind in dict(_parts(now)) if kind != "files" and what.endswith((" inputs", LEARNED))]
    return environment_changes(saved.get("environment", {}), now["environment"]) if {*different} <= {*computed} else []


def uncompared_notes(saved: Fingerprint, now: Fingerprint, splits: Collection[str] = tuple(WORDS)) -> list[str]:
    """Return a note for the inputs of each split whose checksums in the two fingerprints were made of other things."""
    before, after = (dict(_parts(one)) for one in (saved, now))
    known, inputs = [what for what, _ in before], [f"the {WORDS[name]} inputs" for name in splits]
    return [
        f"{what} are read in another way than before, and are not compared"
        for what, kind in after
        if what in known and what in inputs and (what, kind) not in before
    ]


def _parts(fingerprint: Fingerprint) -> Iterator[tuple[tuple[str, str], object]]:
    """Yield each checksum of a fingerprint by what it is of, and what it was made of."""
    targets = fingerprint["targets"]
    if isinstance(targets, list):
        for word, (count, checksum) in zip(WORDS.values(), targets, strict=False):
            yield (f"{NUMBER} {word} samples", ""), count
            yield (f"the {word} targets", ""), checksum
    else:  # of a datamodule of the project's own
        yield ("the first targets", ""), targets
    for name, count in fingerprint.get("sizes", {}).items():
        yield (f"{NUMBER} {WORDS[name]} samples", ""), count
    for name, text in fingerprint.get("inputs", {}).items():
        kind, _, digest = text.partition(" ")
        yield (f"the {WORDS[name]} inputs", kind), digest
    for name, (inputs, checksum) in fingerprint.get("first", {}).items():
        yield (f"the first {WORDS[name]} inputs", ""), inputs
        yield (f"the first {WORDS[name]} targets", ""), checksum
    if "encoder" in fingerprint:
        yield (LEARNED, ""), fingerprint["encoder"]


def _digest(values: "np.ndarray | Tensor | None") -> str:
    array = np.asarray(values.cpu() if isinstance(values, Tensor) else values)
    return hashlib.sha256(array.tobytes()).hexdigest()[:16]
