"""Write the JSON Schemas of the groups that say how a network is trained."""

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lamella.config.checks import TRAINER_KEYS
from lamella.editors.calls import Schema, call_schema, choice_of, value_of
from lamella.editors.group import EPOCHS, LIST, Group
from lamella.editors.targets import Targets
from lamella.experiment.optimizers import OF_GROUPS
from lamella.network.hints import further_inputs
from lamella.training.checkpoint_interval import INTERVAL
from lamella.training.device import MODES, device_keys, present_accelerators
from lamella.training.scheduler import LENGTHS

STRINGS = value_of("string", "array", items={"type": "string"})


def loss_schema(group: Group) -> Schema:
    """Return the schema of the group `loss`: one of torch's losses, with class weights."""
    changed = {
        "weight": choice_of(["balanced"], "array", "null"),
        "pos_weight": LIST,
        "reduction": choice_of(["mean", "batchmean"]),
    }
    return group.written(group.targets(nn.Module, ["torch.nn"], keep=_compares, extra=group.free, changed=changed))


def _compares(target: object) -> bool:
    """Return True for what may be a loss: a function, or a module whose forward needs more than one input."""
    return not isinstance(target, type) or bool(further_inputs(target.forward, skipped=2))  # type: ignore[attr-defined]


def optimizer_schema(group: Group) -> Schema:
    """Return the schema of the group `optimizer`: one optimizer, or several by name."""
    own = (*OF_GROUPS, "match", "every")
    targets = group.targets(
        Optimizer,
        ["torch.optim"],
        keep=lambda found: found is not Optimizer,
        supplied=["params"],
        extra=(*own, *group.free),
    )
    options: Schema = {
        "type": ["object"],
        "properties": {name: one for name, one in targets.arguments().items() if name not in own} | {"match": STRINGS},
        "required": ["match"],
        "minProperties": 2,
        "additionalProperties": False,
    }
    extra: dict[str, Schema] = {
        "groups": LIST | {"items": options},
        "layer_decay": value_of("number", "null", exclusiveMinimum=0, exclusiveMaximum=1),
    }
    named = group.written(targets, {**extra, "match": STRINGS, "every": value_of("integer", minimum=1)})
    del named["$defs"]
    message = "No optimizer takes this argument; one of several optimizers, by its name, is a mapping."
    schema = group.written(targets, extra, {"$ref": "#/$defs/named"})
    schema["$defs"]["named"] = {**named, "description": "One of several optimizers, by name.", "errorMessage": message}
    return schema


def scheduler_schema(group: Group) -> Schema:
    """Return the schema of the group `scheduler`, and of the schedulers that one may consist of."""
    changed: dict[str, Schema] = {
        **dict.fromkeys(LENGTHS, value_of("integer", "null")),
        "schedulers": value_of("array", items={"$ref": "#/$defs/node"}),
    }
    extra = {"interval": choice_of(["epoch", "step"]), "warmup_steps": value_of("integer", minimum=0)}
    targets = group.targets(
        LRScheduler,
        ["torch.optim.lr_scheduler"],
        supplied=["optimizer"],
        extra=(*extra, *group.free),
        changed=changed,
    )
    schema = group.written(targets, extra)
    schema["$defs"]["node"] = targets.node()
    return schema


def device_schema(group: Group) -> Schema:
    """Return the schema of the group `device`, which has no `_target_`."""
    schema = call_schema(device_keys, extra=group.free)
    precision = call_schema(pl.Trainer)["properties"]["precision"]
    schema["properties"] |= {
        "accelerator": choice_of(["auto", *present_accelerators()]),
        "precision": precision,
        "threads": EPOCHS,
        "graph": choice_of(["auto", False]),
        "compile": choice_of([True, False, *MODES]),
        "channels_last": choice_of(["auto", True, False]),
    }
    return {key: value for key, value in schema.items() if key != "description"}


# What the keys of the group trainer take that Lightning's Trainer lacks.
RECIPE: dict[str, Schema] = {
    "checkpoint_every": {"anyOf": [value_of("null"), {"type": "string", "pattern": f"^{INTERVAL}$"}]},
    "chunk": {"anyOf": [{"const": "auto"}, value_of("integer", minimum=1)]},
    "ema": value_of("number", "null", exclusiveMinimum=0, exclusiveMaximum=1),
    **dict.fromkeys(("swa", "early_stopping", "keep_top", "overfit"), EPOCHS),
    **dict.fromkeys(("test", "profile"), value_of("boolean")),
}


def trainer_schema(group: Group) -> Schema:
    """Return the schema of the group `trainer`: the arguments of the Trainer, and further keys."""
    callbacks = Targets("trainer.callbacks", pl.Callback, ["pytorch_lightning.callbacks"], group.own)
    loggers = Targets("trainer.logger", Logger, ["pytorch_lightning.loggers"], group.own)
    extra = {key: RECIPE.get(key, {}) for key in TRAINER_KEYS}
    changed = {
        "callbacks": LIST | {"items": {"$ref": "#/$defs/callback"}},
        "logger": LIST | {"items": {"$ref": "#/$defs/logger"}},
        "max_epochs": EPOCHS,
    }
    targets = Targets(
        "trainer",
        pl.Trainer,
        ["pytorch_lightning"],
        supplied=["plugins"],
        extra=(*extra, *group.free),
        changed=changed,
    )
    schema = group.written(targets, extra)
    nodes = {"callback": callbacks.node(), "logger": loggers.node()}
    schema["$defs"] |= {**callbacks.definitions, **loggers.definitions, **nodes}
    return schema
