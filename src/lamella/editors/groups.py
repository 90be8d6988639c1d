"""Write the JSON Schema of each config group, from what the group is built from."""

from collections.abc import Callable

import pytorch_lightning as pl
from torch import nn
from torchmetrics import Metric

from lamella.config.targets import UNDERSCORED
from lamella.data import Datasets, OwnData, Splits
from lamella.editors.calls import Schema, call_schema, choice_of, described, value_of
from lamella.editors.group import EPOCHS, Group
from lamella.editors.layers import LAYERS, entry_definitions
from lamella.editors.targets import Targets
from lamella.editors.training_groups import (
    device_schema,
    loss_schema,
    optimizer_schema,
    scheduler_schema,
    trainer_schema,
)
from lamella.experiment.augmentation import NAMES
from lamella.experiment.initial_weights import OPTIONS
from lamella.experiment.metrics import SET_BY_LAMELLA
from lamella.experiment.task_kind import GIVEN
from lamella.network.initialization import FUNCTIONS


def group_schema(group: Group) -> Schema:
    """Return the schema of a group, as a file or an experiment gives it: whole, or keys that differ."""
    return WRITERS.get(group.key, _any_node)(group)


def _network(group: Group) -> Schema:
    extra = {
        "layers": LAYERS,
        "name": {"description": "The name of the network's class, where it is printed.", **value_of("string")},
        "init": {"description": "How the first weights are drawn.", **choice_of([*FUNCTIONS, None], "object")},
        "class_dim": value_of("integer", "null"),
        "freeze": value_of("array", "object", "null", items={"type": "string"}, additionalProperties=EPOCHS),
        "weights": {"if": {"required": ["from"]}, "then": {"propertyNames": {"enum": list(OPTIONS)}}},
    }
    homes = ("torchvision.models", "torchvision.ops", "torch.nn", "lamella.network")
    targets = group.targets(nn.Module, homes, extra=(*extra, *group.free))
    # A scalar is read by the layers, and a mapping with layers is one of several networks.
    stack = {"properties": {"layers": LAYERS}}
    schema = group.written(targets, extra, stack)
    schema["$defs"] = {**entry_definitions(), "module": targets.node(), **targets.definitions}
    schema["else"]["properties"] = dict.fromkeys(extra, True)
    for definition in targets.definitions.values():
        if "weights" in definition["properties"]:  # a name of torchvision's, or what `extra` describes
            names = definition["properties"]["weights"]
            definition["properties"]["weights"] = {"anyOf": [names, {"type": ["string", "object"]}]}
    return schema


def _data(group: Group) -> Schema:
    described_keys = call_schema(OwnData, supplied=["source"])["properties"]
    sources = Targets("data.source", Splits, ["lamella.data"], group.own, within=True)
    extra = {
        **{name: schema for name, schema in described_keys.items() if name not in UNDERSCORED},
        "source": sources.part(),
        "augment": value_of("array", "object", "null", items={"$ref": "#/$defs/transform"}),
    }
    targets = group.targets(
        (pl.LightningDataModule, Datasets),
        ["lamella.data"],
        keep=lambda found: found is not OwnData,
        supplied=["augment", "encoder", "source"],
        extra=(*extra, *group.free),
        changed={"collate": value_of("string", "object", "null")},  # the path of a function, or a node
    )
    schema = group.written(targets, extra)
    homes = ["torchvision.transforms.v2"]
    from torchvision.transforms.v2 import Transform  # here, because nothing else needs torchvision

    transforms = Targets("data.augment", Transform, homes, group.own, extra=["per"], within=True)
    schema["$defs"] |= {**sources.definitions, **transforms.definitions, "transform": _transform(transforms)}
    return schema


def _transform(targets: Targets) -> Schema:
    """Return the schema of an entry of `data.augment`."""
    named = {}
    for name, make in NAMES.items():
        known = {key: schema for key, schema in call_schema(make)["properties"].items() if key not in UNDERSCORED}
        named[name] = {
            **described(make),
            "properties": known,
            "additionalProperties": False,
            "maxItems": len(known),
            "if": {"type": ["number", "string", "boolean"]},
            "then": next(iter(known.values()), False),
        }
    return {
        "type": ["string", "object"],
        "if": {"type": "string"},
        "then": choice_of(list(NAMES)),
        "else": {
            "if": {"required": ["_target_"]},
            "then": targets.node(),
            "else": {"properties": named, "additionalProperties": False, "minProperties": 1, "maxProperties": 1},
        },
    }


def _named_nodes(targets: Targets) -> Schema:
    """Return the schema of a group of nodes by names of the user's own."""
    node = {"type": ["object", "null"], "if": {"required": ["_target_"]}, "then": targets.part()}
    keys = {"defaults": True}
    return {"type": ["object"], "properties": keys, "additionalProperties": node, "$defs": targets.definitions}


def _visuals(group: Group) -> Schema:
    return _named_nodes(group.targets(pl.Callback, ["lamella.visuals", "pytorch_lightning.callbacks"]))


def _metrics(group: Group) -> Schema:
    homes = [f"torchmetrics{module}" for module in ("", ".text", ".classification", ".regression")]
    targets = group.targets(Metric, homes, supplied=SET_BY_LAMELLA)
    for path, definition in targets.definitions.items():
        if path.startswith("torchmetrics."):  # where other arguments by keyword are those that Lamella sets
            definition["additionalProperties"] = False
    schema = _named_nodes(targets)
    return {**schema, "type": ["object", "null"], "propertyNames": {"pattern": r"^[A-Za-z]\w*$"}}


def _task(group: Group) -> Schema:
    return group.written(group.targets(pl.LightningModule, ["lamella"], supplied=GIVEN, extra=group.free))


def _any_node(group: Group) -> Schema:
    return {"type": ["object", "null"]}


WRITERS: dict[str, Callable[[Group], Schema]] = {
    "data": _data,
    "network": _network,
    "loss": loss_schema,
    "optimizer": optimizer_schema,
    "scheduler": scheduler_schema,
    "device": device_schema,
    "trainer": trainer_schema,
    "visuals": _visuals,
    "metrics": _metrics,
    "task": _task,
}
