"""Checks of a composed config that need no torch, so that a wrong value is refused within a fraction of a second.

What these checks pass over is checked when the experiment is built.
"""

from collections.abc import Collection, Mapping

from lamella.config.files import GROUPS
from lamella.config.hints import hint_for_key
from lamella.config.moved_targets import present_name
from lamella.config.source_signatures import source_parameters
from lamella.config.values import Config
from lamella.errors import RequestError, nearest
from lamella.signatures import check_arguments

ROOT_KEYS = ("name", "seed", "monitor", *GROUPS)  # the keys at the root of a config
LIBRARIES = ("torch", "torchvision", "pytorch_lightning", "lamella")  # whose source files are read
DEVICE = "lamella.training.device.device_keys"  # has the signature of the group device, which has no `_target_`
DESCRIPTION = (
    "lamella.data.own_data.OwnData"  # has the keys of the group data that say what the batches of its target are
)
# The keys of the group trainer that Lightning's Trainer lacks.
TRAINER_KEYS = ("checkpoint_every", "chunk", "test", "ema", "swa", "early_stopping", "keep_top", "overfit", "profile")
# The arguments that Lamella checks by itself, and the keys that it takes besides.
OWN_CHECKS = {
    "trainer": ("callbacks", "logger", *TRAINER_KEYS),
    "device": ("graph",),
    "optimizer": ("groups", "layer_decay"),
}
# The groups whose keys are the arguments of their target, and no others, with the package of such a target.
STRICT = {
    "data": "lamella.data.",
    "loss": "torch.nn.",
    "optimizer": "torch.optim.",
    "trainer": "pytorch_lightning.",
    "device": "lamella.training.",
}


def check_known(config: Config, references: Collection[str] | None) -> None:
    """Raise RequestError for an unknown key, and for an argument of a library's class that has a wrong type.

    references: the keys that interpolations read. Lists and mappings are passed over.
    """
    check_root(config, references)
    for group in GROUPS:
        node = config.get(group)
        if isinstance(node, Mapping) and group == "optimizer":
            _check_one_or_named(node)
        if isinstance(node, Mapping) and group != "network":
            _check_node(node, group, references)


def check_root(config: Config, references: Collection[str] | None) -> None:
    """Raise RequestError for an unknown or a missing key at the root of a config, and for a seed that is none.

    references: the keys that interpolations read, None to accept any key.
    """
    for key in config:
        if key == "experiment":
            raise RequestError("experiment: the file has to start with the line `# @package _global_`", key)
        if key not in ROOT_KEYS and not is_read(key, references):
            hint = hint_for_key(key) or nearest(key, ROOT_KEYS)
            raise RequestError(f"{key}: there is no such key; {hint}", key)
    seed = config.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise RequestError(f"seed is {seed!r}; it takes a whole number from 0 on", "seed")


def _check_one_or_named(node: Config) -> None:
    """Raise RequestError where several optimizers are merged into the option of a single one."""
    parts = {name: part for name, part in node.items() if name != "groups"}
    named = [name for name, part in parts.items() if isinstance(part, Mapping) and "match" in part]
    if named and "_target_" in node:
        key = f"optimizer.{named[0]}"
        raise RequestError(
            f"{key}: the option of this group is a single optimizer, {node['_target_']};\n"
            "  write several ones into conf/optimizer/NAME.yaml, and choose it with optimizer=NAME",
            key,
        )


def _check_node(node: Config, key: str, references: Collection[str] | None) -> None:
    """Check a node with a `_target_`, and the nodes in it."""
    for name, value in node.items():
        if isinstance(value, Mapping):
            _check_node(value, f"{key}.{name}", references)
    target = DEVICE if key == "device" else node.get("_target_")
    path = present_name(target) if isinstance(target, str) else ""
    expected = source_parameters(path) if path.partition(".")[0] in LIBRARIES else None
    if expected is None:
        return
    if key == "data":
        expected = (source_parameters(DESCRIPTION) or {}) | expected
    strict = path.startswith(STRICT.get(key, "no package"))
    values = {}
    for name, value in node.items():
        if not isinstance(name, str) or name.startswith("_") or name in OWN_CHECKS.get(key, ()):
            continue
        if key == "loss" and name == "weight" and isinstance(value, str):  # may be "balanced"
            continue
        if name not in expected and strict and not is_read(f"{key}.{name}", references):
            values[name] = value
        # A null of the scheduler is the length of the run.
        if name in expected and not isinstance(value, Mapping | list) and not (value is None and key == "scheduler"):
            values[name] = value
    check_arguments(expected, values, place=key, title="device" if key == "device" else path.rpartition(".")[2])


def is_read(key: str, references: Collection[str] | None) -> bool:
    """Return whether an interpolation reads a key, a node above it or a value in it.

    references: the keys that interpolations read, None for any. A reference that begins with a dot, as in `${.width}`,
    is relative: it matches the key of any node.
    """
    return references is None or any(
        key.endswith(f".{name.lstrip('.')}")
        if name.startswith(".")
        else f"{key}.".startswith(f"{name}.") or name.startswith(f"{key}.")
        for name in references
    )
