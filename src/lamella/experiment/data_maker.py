"""Choose what makes the data of a config: Lamella's own class, or a dataset or datamodule of the project's own."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytorch_lightning as pl

from lamella import signatures
from lamella.config.targets import resolve_target
from lamella.config.values import Config
from lamella.data import Data, Datasets, OwnData, RunData
from lamella.data.samples import Encoder
from lamella.data.summary import counted
from lamella.errors import RequestError
from lamella.experiment.augmentation import build_augment

Make = Callable[..., Callable[..., Any]]


def data_maker(node: Config, make: Make, encoder: Encoder | None) -> Callable[[], RunData]:
    """Return the function that makes the data of the config group `data`. Raises RequestError.

    make: checks the arguments of a group's object, and returns a function that makes it. encoder: as in `Data`.

    Where the target is no `Data`, the keys that are arguments of OwnData describe its samples. The target gets all
    others, and those that it takes too.
    """
    target = resolve_target(node.get("_target_"), "data._target_", (pl.LightningDataModule, Datasets))
    if isinstance(target, type) and issubclass(target, Data):
        plain = {name: value for name, value in node.items() if name != "augment"}
        make_data = make("data", Data, plain, supplied={"augment", "encoder"})
        return partial(make_data, augment=build_augment(node.get("augment")), encoder=encoder)
    described, taken = signatures.parameters(OwnData), signatures.parameters(target)
    description = {name: value for name, value in node.items() if name in described and name != "source"}
    rest = {name: value for name, value in node.items() if name not in description or name in taken}
    if isinstance(path := rest.get("collate"), str) and target.__module__.startswith("lamella."):
        rest["collate"] = {"_target_": path, "_partial_": True}  # the function itself, and not its result
    signatures.check_call(OwnData, description, place="data", supplied={"source"})
    return partial(_own, make("data", Datasets if target is Datasets else pl.LightningDataModule, rest), description)


def check_count(data: RunData, is_read: bool) -> None:
    """Raise RequestError if a network reads `data.num_classes`, as `is_read` says, and it is null."""
    if is_read and isinstance(data, OwnData) and data.read.classes is None:
        numbers = counted(data.targets[0][0].numel(), "number", "numbers")
        raise RequestError(
            f"data.num_classes is null, and the network reads it; a target is {numbers}, so write "
            f"data.num_classes={data.targets[0][0].numel()}",
            "data.num_classes",
        )


def _own(make_source: Callable[[], Any], description: Config) -> OwnData:
    source = make_source()
    if not isinstance(source, Datasets | pl.LightningDataModule):
        title = type(source).__name__
        raise RequestError(f"data: its target gives a {title}; it takes a LightningDataModule", "data._target_")
    return OwnData(source, **description)
