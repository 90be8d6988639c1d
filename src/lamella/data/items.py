"""Read what a dataset or a loader of the project's own gives as inputs and targets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import default_collate

from lamella.data.chunk import Batch, Served
from lamella.data.samples import InputType, Shape, served, written_shape
from lamella.errors import RequestError, first_line, nearest, own_frames

TAKES = "it takes a pair (input, target), or a mapping of names to tensors"
Collate = Callable[[list[object]], object]


@dataclass(frozen=True)
class Reading:
    """Says which part of a batch is the input of the network, and which one is the target.

    A batch is a pair (input, target), or a mapping in which the key `target` is the target. input: the key that is the
    input, or a list of those that are the named inputs; None takes all but the target. classes: the targets that are
    integers are below it, and None allows no such targets. ignored: a target that may be outside.
    """

    input: str | Sequence[str] | None
    target: str
    classes: int | None
    ignored: int

    def __call__(self, given: object, place: str) -> Batch:
        """Return the inputs and the targets of a batch, integers as int64. Raises RequestError, which names `place`."""
        if isinstance(given, Mapping):
            if self.target not in given:
                raise RequestError(
                    f"data.target is {self.target!r}, and {place} has the keys {', '.join(map(str, given))}; "
                    f"{nearest(self.target, given)}",
                    "data.target",
                )
            inputs, target = {name: value for name, value in given.items() if name != self.target}, given[self.target]
        elif isinstance(given, list | tuple) and len(given) == 2:
            inputs, target = given
        else:
            raise RequestError(f"data: {place} is {_text(given)}; {TAKES}", "data")
        return self._inputs(inputs, place), self._targets(target, place)

    def _inputs(self, given: object, place: str) -> Served:
        if self.input is not None:
            names = [self.input] if isinstance(self.input, str) else list(self.input)
            known = given if isinstance(given, Mapping) else {}
            if missing := [name for name in names if name not in known]:
                has = f"the inputs {', '.join(map(str, known))}" if known else f"as its input {_text(given)}"
                raise RequestError(f"data.input is {missing[0]!r}, and {place} has {has}", "data.input")
            given = known[self.input] if isinstance(self.input, str) else {name: known[name] for name in names}
        if not isinstance(given, Mapping):
            return served(_tensor(given, "input", place))
        if not given:
            raise RequestError(f"data: {place} has a target and no input; {TAKES}", "data")
        return {str(name): served(_tensor(value, f"input {name!r}", place, given)) for name, value in given.items()}

    def _targets(self, given: object, place: str) -> Tensor:
        targets = served(_tensor(given, "target", place))
        if targets.dtype != torch.int64:
            return targets
        if self.classes is None:
            raise RequestError(
                f"data.num_classes is null, but the target of {place} is a whole number, which is a class; write how "
                "many classes there are, as data.num_classes=10, or give floats for what is predicted as a number",
                "data.num_classes",
            )
        if targets.device.type == "cpu":
            wrong = targets[((targets < 0) | (targets >= self.classes)) & (targets != self.ignored)]
            if len(wrong):
                raise RequestError(
                    f"data.num_classes is {self.classes}, but a target of {place} is {int(wrong[0])}; whole numbers "
                    f"are classes, from 0 to {self.classes - 1}, and what is predicted as a number is a float",
                    "data.num_classes",
                )
        return targets


def _tensor(value: object, what: str, place: str, others: Mapping[str, object] | None = None) -> Tensor:
    """Return a value that has to be a tensor (B, …). Raises RequestError."""
    if not isinstance(value, Tensor) or not value.dim():
        tensors = [name for name, one in (others or {}).items() if isinstance(one, Tensor) and one.dim()]
        hint = f"; choose the inputs by data.input=[{','.join(tensors)}]" if tensors else ""
        raise RequestError(
            f"data: {place} has as its {what} {_text(value)}; it takes a tensor, an array or a number{hint}", "data"
        )
    if value.dtype == torch.uint8 and what != "target":
        raise RequestError(
            f"data: {place} has as its {what} uint8, the type of pixels; a dataset gives floats, for images with the "
            "transform torchvision.transforms.v2.ConvertImageDtype",
            "data",
        )
    return value


def _text(value: object) -> str:
    """Return a value for a message: its type, and what is in it."""
    if isinstance(value, list | tuple) and value:
        kinds = list(dict.fromkeys(type(one).__name__ for one in value))
        if kinds == ["str"]:
            return "text"
        return f"a {type(value).__name__} of {len(value)}: {', '.join(kinds)}"
    if isinstance(value, Tensor):
        return "a tensor without dimensions" if not value.dim() else f"a tensor {list(value.shape)}"
    return "None" if value is None else f"a {type(value).__name__}"


def kind_of_batch(inputs: Served) -> tuple[Shape, InputType]:
    """Return the shape of one sample and its type, or for named inputs both by name."""
    if isinstance(inputs, Tensor):
        return tuple(inputs.shape[1:]), _served_as(inputs)
    return {name: tuple(one.shape[1:]) for name, one in inputs.items()}, {
        name: _served_as(one) for name, one in inputs.items()
    }


def _served_as(values: Tensor) -> torch.dtype:
    return torch.float32 if values.is_floating_point() else values.dtype


def collated(items: Sequence[object], places: Sequence[str], collate: Collate | None, read: Reading) -> Batch:
    """Return the batch of some items of a dataset. Raises RequestError, which names the item that is to blame.

    places: what each item is, for messages. collate: makes a batch of items, None for torch's default_collate.
    """
    try:
        return read((collate or default_collate)(list(items)), "a batch of the dataset")
    except Exception as error:
        shapes: list[Shape] = []
        for item, place in zip(items, places, strict=True):  # the item that cannot be in a batch of its own
            shapes.append(kind_of_batch(_alone(item, place, collate, read)[0])[0])
            if shapes[-1] != shapes[0] and collate is None:
                first, other = map(written_shape, (shapes[0], shapes[-1]))
                raise RequestError(
                    f"data: {place} has the shape {other}, and {places[0]} {first}; name a function that makes one "
                    "batch of such items as data.collate",
                    "data.collate",
                ) from error
        if isinstance(error, RequestError):
            raise
        what = "data.collate" if collate else "the default collate function"
        raise RequestError(f"data: {what} fails on {len(items)} items from {places[0]} on: {_said(error)}") from error


def _alone(item: object, place: str, collate: Collate | None, read: Reading) -> Batch:
    """Return a batch of one item. Raises RequestError."""
    try:
        batch = (collate or default_collate)([item])
    except Exception as error:
        if collate is not None:
            raise RequestError(f"data.collate fails on {place}: {_said(error)}", "data.collate") from error
        parts = list(item) if isinstance(item, list | tuple) else [item]
        if any(type(part).__module__.startswith("PIL.") for part in parts):
            raise RequestError(
                f"data: {place} holds a picture of PIL; give the dataset a transform that makes floats of it, as "
                "{_target_: torchvision.transforms.v2.Compose,\n  transforms: [{_target_: "
                "torchvision.transforms.v2.ToImage}, {_target_: torchvision.transforms.v2.ConvertImageDtype}]}",
                "data",
            ) from error
        raise RequestError(f"data: {place} is {_text(item)}; {TAKES}", "data") from error
    return read(batch, place)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}{own_frames(error)}"
