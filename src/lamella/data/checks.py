"""Check that the samples of a data set and the config fit together."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lamella.data.images import ImageFiles
from lamella.data.samples import InputType, NamedInputs, Samples, Shape
from lamella.data.summary import WORDS
from lamella.errors import RequestError


def kind(samples: Samples) -> tuple[Shape, InputType]:
    """Return the shape and the type of one input; image files are not read for that. Raises RequestError."""
    if isinstance(samples.inputs, ImageFiles):
        return samples.inputs.decoder.shape, torch.uint8
    if isinstance(samples.inputs, NamedInputs):
        tensors = samples.inputs.tensors
        return {name: tuple(one.shape[1:]) for name, one in tensors.items()}, {
            name: one.dtype for name, one in tensors.items()
        }
    first = samples.inputs[torch.tensor([0])]
    if not isinstance(first, Tensor):
        raise RequestError(
            f"data.source: its inputs are a {type(samples.inputs).__name__}, which gives no tensor (B, …) for a tensor "
            "of indices (B,); use a tensor",
            "data.source",
        )
    return tuple(first.shape[1:]), first.dtype


def check_files(samples: Samples, cache: str | None, skip_unreadable: bool) -> None:
    """Raise RequestError for keys of `Data` that are meant for image files, if the samples are none."""
    if cache not in (None, "memmap"):
        raise RequestError(f"data.cache is {cache!r}; it takes memmap, or null for none", "data.cache")
    if isinstance(samples.inputs, ImageFiles):
        return
    if cache:
        raise RequestError(
            "data.cache keeps decoded image files, and these samples are none; leave it null", "data.cache"
        )
    if skip_unreadable:
        raise RequestError(
            "data.skip_unreadable leaves out image files, and these samples are none; leave it false",
            "data.skip_unreadable",
        )


def check_samples(
    splits: Mapping[str, Samples],
    shape: Shape,
    dtype: InputType,
    num_classes: int,
    ignored: int,
    validates: bool,
) -> None:
    """Raise RequestError if the samples of a split do not fit the shape, the type and the classes of the config.

    splits: the samples by the name of the split, train first. ignored: the class index of positions that do not count.
    validates: False if there are no validation samples.
    """
    for name, samples in splits.items():
        labels, split = samples.targets, WORDS[name]
        if len(samples.inputs) != len(labels) or not (len(labels) or (name == "val" and not validates)):
            raise RequestError(f"data.source: {len(samples.inputs)} {split} samples have {len(labels)} targets", "data")
        if not len(labels):
            continue
        (found, stored), (_, trained) = kind(samples), kind(splits["train"])
        if found != shape:
            raise RequestError(
                f"data.shape is {_text(shape)}, but the {split} samples are {_text(found)}", "data.shape"
            )
        if (stored == torch.uint8) != (trained == torch.uint8):
            raise RequestError(f"data.source: the {split} inputs are {stored}, those of the training {trained}", "data")
        if (given := _served_type(stored)) != dtype:
            raise RequestError(
                f"data.dtype is {_named(dtype)}, but the {split} samples are {_named(given)}", "data.dtype"
            )
        if not labels.is_floating_point():
            # Not compared with plain numbers, which are converted to the type of the labels, where they may not fit.
            known, left_out = torch.tensor([num_classes]), torch.tensor([ignored])
            wrong = labels[((labels < 0) | (labels >= known)) & (labels != left_out)]
            if not len(wrong):
                continue
            worst = int(wrong.max()) if int(wrong.max()) >= num_classes else int(wrong.min())
            raise RequestError(
                f"data.num_classes is {num_classes}, but a {split} label is {worst}; "
                f"labels go from 0 to {num_classes - 1}",
                "data.num_classes",
            )


def _served_type(stored: InputType) -> InputType:
    """Return the type as which inputs are served. Raises RequestError for pixels among named inputs."""
    if isinstance(stored, dict):
        if pixels := [name for name, dtype in stored.items() if dtype == torch.uint8]:
            raise RequestError(
                f"data.source: the named input {pixels[0]} has the type uint8, which is for pixels; return floats, or "
                "indices as int32",
                "data.source",
            )
        return {name: _kind_of_number(dtype) for name, dtype in stored.items()}
    return torch.float32 if stored == torch.uint8 else _kind_of_number(stored)


def _kind_of_number(dtype: torch.dtype) -> torch.dtype:
    """Return the type in `data.dtype` for a type of tensors: one for all floats, and one for all integers."""
    return torch.float32 if dtype.is_floating_point else torch.bool if dtype == torch.bool else torch.int64


def _named(types: InputType) -> str:
    """Return types as they are written in a config."""
    names = {name: str(one).removeprefix("torch.") for name, one in types.items()} if isinstance(types, dict) else None
    return str(names or types).removeprefix("torch.")


def _text(shape: Shape) -> str:
    """Return a shape as it is written in a config."""
    return str({name: list(one) for name, one in shape.items()} if isinstance(shape, dict) else list(shape))
