"""Check that the samples of a data set and the config fit together."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lamella.data.images import ImageFiles
from lamella.data.samples import InputType, NamedInputs, Samples, Shape, written_shape, written_type
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


def class_names(num_classes: int, classes: Sequence[str] | None) -> list[str]:
    """Return the names of the classes, which are numbers where `classes` is None. Raises RequestError."""
    names = list(map(str, range(num_classes) if classes is None else classes))
    if len(names) != num_classes:
        raise RequestError(
            f"data.num_classes is {num_classes}, but data.classes names {len(names)}", "data.num_classes"
        )
    return names


def check_batches(batch_size: int, drop_last: bool, num_workers: int, samples: int) -> None:
    """Raise RequestError if so many training samples cannot be cut into batches, or read by so many processes."""
    if batch_size < 1:
        raise RequestError(f"data.batch_size is {batch_size}; it takes 1 or more", "data.batch_size")
    if drop_last and batch_size > samples:
        raise RequestError(
            f"data.batch_size is {batch_size}, more than the {samples} training samples, and "
            f"data.drop_last drops an unfinished batch: nothing would be trained",
            "data.batch_size",
        )
    if num_workers < 0:
        raise RequestError(f"data.num_workers is {num_workers}; it takes 0 or more", "data.num_workers")


def check_world(batch_size: int, sizes: Mapping[str, int], world: int) -> None:
    """Raise RequestError if `world` devices cannot share a batch equally, or one of them would have no samples.

    sizes: the number of samples of each split.
    """
    if batch_size % world:
        raise RequestError(
            f"data.batch_size is {batch_size}, which {world} devices cannot share equally; take a multiple of {world}",
            "data.batch_size",
        )
    for name, samples in sizes.items():
        if 0 < samples < world:
            raise RequestError(
                f"data: {samples} {WORDS[name]} samples leave some of {world} devices without any", "data"
            )


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
                f"data.shape is {written_shape(shape)}, but the {split} samples are {written_shape(found)}",
                "data.shape",
            )
        if (stored == torch.uint8) != (trained == torch.uint8):
            raise RequestError(f"data.source: the {split} inputs are {stored}, those of the training {trained}", "data")
        if (given := _served_type(stored)) != dtype:
            raise RequestError(
                f"data.dtype is {written_type(dtype)}, but the {split} samples are {written_type(given)}", "data.dtype"
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
